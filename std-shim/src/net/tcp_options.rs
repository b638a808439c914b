//! The options of a [`TcpStream`], and [`TcpInfo`].

use super::TcpStream;
use super::dial::whole_seconds;
use super::socket::zero_duration;
use gopark_backends::linux::socket::tcp_info;
use socket2::TcpKeepalive;
use std::io::Result;
use std::time::Duration;

/// Options of a TCP connection.
impl TcpStream {
    /// Returns after how much idle time the kernel probes whether the peer is still there, or
    /// `None` if it does not (`SO_KEEPALIVE`, `TCP_KEEPIDLE`). 15 s by default, as in Go.
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// use std::time::Duration;
    ///
    /// assert_eq!(stream.keepalive()?, Some(Duration::from_secs(15)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn keepalive(&self) -> Result<Option<Duration>> {
        self.socket.with(|socket| match socket.keepalive()? {
            true => socket.tcp_keepalive_time().map(Some),
            false => Ok(None),
        })
    }

    /// Sets after how much idle time the kernel probes whether the peer is still there, and how
    /// often it then does until the peer replies (`SO_KEEPALIVE`, `TCP_KEEPIDLE`, `TCP_KEEPINTVL`).
    /// `None` turns the probes off. Nine probes without a reply end the connection, if the number
    /// is not changed otherwise.
    ///
    /// The kernel counts whole seconds: a fraction is rounded up.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for zero, or for more than 32 767 seconds.
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// use std::time::Duration;
    ///
    /// stream.set_keepalive(Some(Duration::from_secs(60)))?;
    /// assert_eq!(stream.keepalive()?, Some(Duration::from_secs(60)));
    /// stream.set_keepalive(None)?;
    /// assert_eq!(stream.keepalive()?, None);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SO_KEEPALIVE")]
    pub fn set_keepalive(&self, interval: Option<Duration>) -> Result<()> {
        let Some(interval) = interval else {
            return self.socket.with(|socket| socket.set_keepalive(false));
        };
        if interval.is_zero() {
            return Err(zero_duration());
        }
        let seconds = whole_seconds(interval);
        let interval = Duration::from_secs(seconds);
        let params = TcpKeepalive::new()
            .with_time(interval)
            .with_interval(interval);
        self.socket.with(|socket| socket.set_tcp_keepalive(&params))
    }

    /// Returns how long sent data may remain unacknowledged before the kernel ends the connection,
    /// or `None` for the kernel's default (`TCP_USER_TIMEOUT`).
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert_eq!(stream.user_timeout()?, None);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn user_timeout(&self) -> Result<Option<Duration>> {
        self.socket.with(|socket| socket.tcp_user_timeout())
    }

    /// Sets how long sent data may remain unacknowledged before the kernel ends the connection with
    /// `TimedOut`, in whole milliseconds (`TCP_USER_TIMEOUT`). `None` is the kernel's default,
    /// about 15 minutes.
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// use std::time::Duration;
    ///
    /// stream.set_user_timeout(Some(Duration::from_secs(20)))?;
    /// assert_eq!(stream.user_timeout()?, Some(Duration::from_secs(20)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "TCP_USER_TIMEOUT")]
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.socket
            .with(|socket| socket.set_tcp_user_timeout(timeout))
    }

    /// Returns whether received data is acknowledged at once (`TCP_QUICKACK`).
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.quickack()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn quickack(&self) -> Result<bool> {
        self.socket.with(|socket| socket.tcp_quickack())
    }

    /// Sets whether received data is acknowledged at once (`TCP_QUICKACK`). The kernel changes it
    /// again as it sees fit, so programs set it after each read.
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_quickack(true)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "TCP_QUICKACK")]
    pub fn set_quickack(&self, quickack: bool) -> Result<()> {
        self.socket.with(|socket| socket.set_tcp_quickack(quickack))
    }

    /// Returns whether the kernel sends full packets only (`TCP_CORK`).
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(!stream.cork()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn cork(&self) -> Result<bool> {
        self.socket.with(|socket| socket.tcp_cork())
    }

    /// Sets whether the kernel sends full packets only (`TCP_CORK`). It sends the rest when this is
    /// turned off, or after 200 ms.
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_cork(true)?;
    /// assert!(stream.cork()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "TCP_CORK")]
    pub fn set_cork(&self, cork: bool) -> Result<()> {
        self.socket.with(|socket| socket.set_tcp_cork(cork))
    }

    /// Returns the most bytes of data in a packet (`TCP_MAXSEG`).
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(stream.mss()? > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "TCP_MAXSEG")]
    pub fn mss(&self) -> Result<u32> {
        self.socket.with(|socket| socket.tcp_mss())
    }

    /// Returns the name of the algorithm that adapts the rate of sending (`TCP_CONGESTION`).
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(!stream.congestion()?.is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn congestion(&self) -> Result<String> {
        self.socket.with(|socket| {
            let name = socket.tcp_congestion()?;
            let end = name.iter().position(|&byte| byte == 0);
            Ok(String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]).into_owned())
        })
    }

    /// Chooses the algorithm that adapts the rate of sending: `cubic`, `bbr` (`TCP_CONGESTION`).
    ///
    /// # Errors
    ///
    /// Errors of the system: `NotFound` if the kernel does not know it, `PermissionDenied` if it is
    /// not in `net.ipv4.tcp_allowed_congestion_control`.
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// let name = stream.congestion()?;
    /// stream.set_congestion(&name)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "TCP_CONGESTION")]
    pub fn set_congestion(&self, name: &str) -> Result<()> {
        self.socket
            .with(|socket| socket.set_tcp_congestion(name.as_bytes()))
    }

    /// Returns the state of the connection (`TCP_INFO`).
    ///
    /// # Errors
    ///
    /// [`PollError::Closing`](crate::PollError::Closing) if the connection is closed.
    ///
    /// ```
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// use gopark::net::TcpState;
    ///
    /// let info = stream.info()?;
    /// assert_eq!(info.state, TcpState::Established);
    /// assert!(info.rtt.as_secs() < 60 && info.congestion_window > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "TCP_INFO")]
    pub fn info(&self) -> Result<TcpInfo> {
        self.socket.ask(tcp_info).map(|info| TcpInfo::from(&info))
    }
}

/// The state of a connection: [`TcpStream::info`], `struct tcp_info` (tcp(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TcpInfo {
    /// The state.
    pub state: TcpState,
    /// The smoothed time of a round trip.
    pub rtt: Duration,
    /// How much that time varies.
    pub rtt_variance: Duration,
    /// After how much time without an acknowledgement data is sent again.
    pub rto: Duration,
    /// How many packets may be under way.
    pub congestion_window: u32,
    /// Below this window, it grows fast.
    pub slow_start_threshold: u32,
    /// The most bytes of data in a packet that is sent.
    pub send_mss: u32,
    /// The most bytes of data in a packet that was received.
    pub recv_mss: u32,
    /// The most bytes of a packet on the path.
    pub path_mtu: u32,
    /// Packets that were sent and not acknowledged.
    pub unacknowledged: u32,
    /// Packets under way that count as lost.
    pub lost: u32,
    /// Packets under way that were sent again.
    pub retransmitting: u32,
    /// Packets sent again since the connection was made.
    pub total_retransmits: u32,
    /// How often in a row the oldest packet was sent again without a reply.
    pub retransmits: u8,
    /// Probes without a reply: of a keep-alive, or of a closed window.
    pub probes: u8,
    /// How long ago data was sent.
    pub last_sent: Duration,
    /// How long ago data was received.
    pub last_received: Duration,
    /// The receive window that the kernel aims at, in bytes.
    pub recv_space: u32,
}

/// The state of a connection in the protocol (RFC 9293).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TcpState {
    /// Data can flow in both directions.
    Established,
    /// This end has asked for the connection.
    SynSent,
    /// The peer has asked for the connection.
    SynReceived,
    /// This end has shut down writing, which the peer has not acknowledged.
    FinWait1,
    /// This end has shut down writing, and the peer has acknowledged that.
    FinWait2,
    /// Both ends have shut down, and late packets may still arrive.
    TimeWait,
    /// There is no connection, or no longer one.
    Closed,
    /// The peer has shut down writing.
    CloseWait,
    /// Both ends have shut down, and the peer has not acknowledged that of this end.
    LastAck,
    /// The socket is a listener.
    Listen,
    /// Both ends have shut down at once.
    Closing,
    /// A state that is not in the RFC, with the kernel's number.
    Other(u8),
}

impl From<&libc::tcp_info> for TcpInfo {
    fn from(info: &libc::tcp_info) -> Self {
        let micros = |time: u32| Duration::from_micros(time.into());
        let millis = |time: u32| Duration::from_millis(time.into());
        TcpInfo {
            state: match info.tcpi_state {
                1 => TcpState::Established,
                2 => TcpState::SynSent,
                3 => TcpState::SynReceived,
                4 => TcpState::FinWait1,
                5 => TcpState::FinWait2,
                6 => TcpState::TimeWait,
                7 => TcpState::Closed,
                8 => TcpState::CloseWait,
                9 => TcpState::LastAck,
                10 => TcpState::Listen,
                11 => TcpState::Closing,
                number => TcpState::Other(number),
            },
            rtt: micros(info.tcpi_rtt),
            rtt_variance: micros(info.tcpi_rttvar),
            rto: micros(info.tcpi_rto),
            congestion_window: info.tcpi_snd_cwnd,
            slow_start_threshold: info.tcpi_snd_ssthresh,
            send_mss: info.tcpi_snd_mss,
            recv_mss: info.tcpi_rcv_mss,
            path_mtu: info.tcpi_pmtu,
            unacknowledged: info.tcpi_unacked,
            lost: info.tcpi_lost,
            retransmitting: info.tcpi_retrans,
            total_retransmits: info.tcpi_total_retrans,
            retransmits: info.tcpi_retransmits,
            probes: info.tcpi_probes,
            last_sent: millis(info.tcpi_last_data_sent),
            last_received: millis(info.tcpi_last_data_recv),
            recv_space: info.tcpi_rcv_space,
        }
    }
}
