//! The errors: texts, conversions and questions.

use crossbeam_channel::{
    ReadyTimeoutError, RecvError, RecvTimeoutError, SelectTimeoutError, SendError,
    SendTimeoutError, TryReadyError, TryRecvError, TrySelectError, TrySendError,
};
use std::error::Error;
use std::fmt::{Debug, Display};

/// Without `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Message(u8);

#[test]
fn texts_are_those_of_the_original() {
    #[track_caller]
    fn check(error: impl Error + Send + Sync + 'static, display: &str, debug: &str) {
        fn texts(error: &(impl Display + Debug)) -> (String, String) {
            (format!("{error}"), format!("{error:?}"))
        }
        assert_eq!(texts(&error), (display.to_string(), debug.to_string()));
        let padded = format!("{error:>60}");
        assert_eq!((padded.len(), padded.trim_start()), (60, display));
        let boxed: Box<dyn Error + Send + Sync> = error.into();
        assert_eq!(boxed.to_string(), display);
    }
    let gone = "sending on a disconnected channel";
    check(SendError(Message(0)), gone, "SendError(..)");
    check(
        TrySendError::Full(Message(0)),
        "sending on a full channel",
        "Full(..)",
    );
    check(
        TrySendError::Disconnected(Message(0)),
        gone,
        "Disconnected(..)",
    );
    let late = "timed out waiting on send operation";
    check(
        SendTimeoutError::Timeout(Message(0)),
        late,
        "SendTimeoutError(..)",
    );
    check(
        SendTimeoutError::Disconnected(Message(0)),
        gone,
        "SendTimeoutError(..)",
    );
    let gone = "receiving on an empty and disconnected channel";
    check(RecvError, gone, "RecvError");
    check(
        TryRecvError::Empty,
        "receiving on an empty channel",
        "Empty",
    );
    check(TryRecvError::Disconnected, gone, "Disconnected");
    check(
        RecvTimeoutError::Timeout,
        "timed out waiting on receive operation",
        "Timeout",
    );
    check(
        RecvTimeoutError::Disconnected,
        "channel is empty and disconnected",
        "Disconnected",
    );
    check(
        TrySelectError,
        "all operations in select would block",
        "TrySelectError",
    );
    check(
        SelectTimeoutError,
        "timed out waiting on select",
        "SelectTimeoutError",
    );
    assert_eq!(
        format!("{TryReadyError:?} {ReadyTimeoutError:?}"),
        "TryReadyError ReadyTimeoutError"
    );
}

#[test]
fn errors_convert_and_are_compared() {
    assert!(TrySendError::from(SendError(Message(1))) == TrySendError::Disconnected(Message(1)));
    let error = SendTimeoutError::from(SendError(Message(1)));
    assert!(error == SendTimeoutError::Disconnected(Message(1)));
    assert_eq!(TryRecvError::from(RecvError), TryRecvError::Disconnected);
    assert_eq!(
        RecvTimeoutError::from(RecvError),
        RecvTimeoutError::Disconnected
    );
}

#[test]
fn messages_come_back() {
    assert!(SendError(Message(3)).into_inner() == Message(3));
    let SendError(message) = SendError(Message(4));
    assert_eq!(message.0, 4);
    for error in [
        TrySendError::Full(Message(5)),
        TrySendError::Disconnected(Message(5)),
    ] {
        assert_eq!(error.is_full(), matches!(error, TrySendError::Full(_)));
        assert_eq!(error.is_disconnected(), !error.is_full());
        assert_eq!(error.into_inner().0, 5);
    }
    for error in [
        SendTimeoutError::Timeout(Message(6)),
        SendTimeoutError::Disconnected(Message(6)),
    ] {
        assert_eq!(
            error.is_timeout(),
            matches!(error, SendTimeoutError::Timeout(_))
        );
        assert_eq!(error.is_disconnected(), !error.is_timeout());
        assert_eq!(error.into_inner().0, 6);
    }
}

#[test]
fn errors_of_receives_say_why() {
    assert!(TryRecvError::Empty.is_empty() && !TryRecvError::Empty.is_disconnected());
    let gone = TryRecvError::Disconnected;
    assert!(gone.is_disconnected() && !gone.is_empty());
    let late = RecvTimeoutError::Timeout;
    assert!(late.is_timeout() && !late.is_disconnected());
    let gone = RecvTimeoutError::Disconnected;
    assert!(gone.is_disconnected() && !gone.is_timeout());
}
