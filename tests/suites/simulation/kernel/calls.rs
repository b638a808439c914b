//! System calls of the simulated kernel. Each is a step at its start and at its end.

use super::{ECONNREFUSED, EMFILE, ENOMEM, EPIPE, FileId, Kernel, Kind, Packet};
use crate::computer::{Computer, computer};
use gopark_core::os::{Borrowed, Errno, Mode, Outcome};

impl Kernel {
    fn call<T>(
        what: &'static str,
        file: FileId,
        number: i32,
        f: impl FnOnce(&mut Kernel, &Computer) -> Outcome<T>,
    ) -> Outcome<T> {
        let computer = computer();
        computer.step(what, [file as u64, number as u64]);
        if computer.one_in(computer.odds.interrupt) {
            return Outcome::Interrupted;
        }
        Self::deliver(computer);
        let outcome = {
            let mut kernel = computer.kernel.borrow_mut();
            match kernel.named(number) {
                Some(id) if id == file => Some(f(&mut kernel, computer)),
                _ => None,
            }
        };
        let Some(outcome) = outcome else {
            computer.fail(format!(
                "{what} on descriptor {number}, which is no longer file {file}"
            ));
            return Outcome::Failed(Errno::new(9));
        };
        computer.step("returns", [file as u64, 0]);
        outcome
    }

    pub(crate) fn read(file: FileId, number: i32, len: usize) -> Outcome<usize> {
        Self::call("read", file, number, |kernel, computer| {
            let end = &mut kernel.files[file];
            if end.kind == Kind::Broken {
                return Outcome::WouldBlock;
            }
            if end.mark == Some(0) {
                end.mark = None;
            }
            let n = len.min(end.buffer).min(end.mark.unwrap_or(usize::MAX));
            if n == 0 {
                return match end.error.take() {
                    Some(error) => Outcome::Failed(Errno::new(error)),
                    None if end.fin || end.reset => Outcome::Done(0),
                    None => Outcome::WouldBlock,
                };
            }
            if computer.one_in(computer.odds.refuse.saturating_mul(4)) {
                end.refused = true;
                return Outcome::Failed(Errno::new(ENOMEM));
            }
            end.buffer -= n;
            end.mark = end.mark.map(|mark| mark - n);
            let peer = end.peer;
            if let Some(peer) = peer {
                let other = &mut kernel.files[peer];
                other.owed -= n;
                if other.wants_room && other.room() > other.capacity / 3 {
                    other.wants_room = false;
                    kernel.edge(computer, peer);
                }
            }
            Outcome::Done(n)
        })
    }

    /// Whether an operation in a direction would not block: `poll(2)`. The next change of that
    /// makes an edge.
    pub(crate) fn probe(number: Borrowed<'_>, mode: Mode) -> bool {
        let computer = computer();
        computer.step("probe", [number.raw() as u64, mode as u64]);
        Self::deliver(computer);
        let ready = {
            let mut kernel = computer.kernel.borrow_mut();
            kernel.named(number.raw()).map(|file| {
                let ready = kernel.could(file, mode);
                kernel.files[file].wants_room |= mode == Mode::Write && !ready;
                ready
            })
        };
        let Some(ready) = ready else {
            computer.fail(format!(
                "probe of descriptor {}, which is not open",
                number.raw()
            ));
            return false;
        };
        computer.step("probe ends", [number.raw() as u64, ready.into()]);
        ready
    }

    pub(crate) fn write(file: FileId, number: i32, len: usize) -> Outcome<usize> {
        Self::call("write", file, number, |kernel, computer| {
            let end = &mut kernel.files[file];
            if end.shut || end.reset || end.kind != Kind::Stream {
                return Outcome::Failed(Errno::new(end.error.take().unwrap_or(EPIPE)));
            }
            let n = len.min(end.room());
            // A probe may have found no room before.
            end.wants_room |= n < len;
            if n == 0 {
                return Outcome::WouldBlock;
            }
            end.owed += n;
            let peer = end.peer.expect("a stream has a peer");
            kernel.send(computer, peer, Packet::Bytes(n));
            if computer.one_in(64) {
                kernel.send(computer, peer, Packet::Urgent);
            }
            Outcome::Done(n)
        })
    }

    /// Shuts down the sending half.
    pub(crate) fn shutdown(file: FileId, number: i32) {
        let shut = |kernel: &mut Kernel, computer: &Computer| {
            let end = &mut kernel.files[file];
            if let (false, Some(peer)) = (end.shut, end.peer) {
                end.shut = true;
                kernel.send(computer, peer, Packet::Fin);
                kernel.edge(computer, file);
            }
            Outcome::Done(())
        };
        while Self::call("shutdown", file, number, shut) == Outcome::Interrupted {}
    }

    pub(crate) fn accept(file: FileId, number: i32) -> Outcome<(FileId, i32)> {
        Self::call("accept", file, number, |kernel, computer| {
            if kernel.files[file].queue.is_empty() {
                return Outcome::WouldBlock;
            }
            if computer.one_in(computer.odds.refuse) {
                return Outcome::Failed(Errno::new(EMFILE));
            }
            let client = kernel.files[file].queue.pop_front().expect("not empty");
            Outcome::Done((client, kernel.number(client)))
        })
    }

    /// Starts a connect. The kernel refuses it in one case of eight.
    pub(crate) fn connect(file: FileId, listener: FileId) {
        if computer().dice.below(8) > 0 {
            return Self::connect_for_sure(file, listener);
        }
        computer().step("connect", [file as u64, 0]);
        let mut kernel = computer().kernel.borrow_mut();
        kernel.files[file].kind = Kind::Connecting;
        kernel.send(computer(), file, Packet::Refused);
    }

    /// Starts a connect, which succeeds if `listener` is open when it arrives.
    pub(crate) fn connect_for_sure(file: FileId, listener: FileId) {
        let computer = computer();
        computer.step("connect", [file as u64, listener as u64]);
        let mut kernel = computer.kernel.borrow_mut();
        kernel.files[file].kind = Kind::Connecting;
        let capacity = kernel.files[file].capacity;
        let server = kernel.add(Kind::Stream, capacity);
        kernel.files[server].peer = Some(file);
        kernel.send(computer, listener, Packet::Connection(server));
    }

    /// The outcome of a connect, as Go finds it: `SO_ERROR` first, then whether there is a peer.
    pub(crate) fn connected(file: FileId, number: i32) -> Outcome<()> {
        Self::call("connected", file, number, |kernel, _| {
            match kernel.files[file].kind {
                Kind::Stream => Outcome::Done(()),
                Kind::Refused => Outcome::Failed(Errno::new(ECONNREFUSED)),
                _ => match kernel.files[file].error.take() {
                    Some(error) => Outcome::Failed(Errno::new(error)),
                    None => Outcome::WouldBlock,
                },
            }
        })
    }

    pub(crate) fn close(number: i32) {
        let computer = computer();
        computer.step("close", [number as u64, 0]);
        computer.kernel.borrow_mut().drop_number(computer, number);
    }

    pub(crate) fn pair(capacity: usize) -> [(FileId, i32); 2] {
        let mut kernel = computer().kernel.borrow_mut();
        let [a, b] = [0; 2].map(|_| kernel.add(Kind::Stream, capacity));
        (kernel.files[a].peer, kernel.files[b].peer) = (Some(b), Some(a));
        [a, b].map(|id| (id, kernel.number(id)))
    }

    pub(crate) fn create(kind: Kind) -> (FileId, i32) {
        let mut kernel = computer().kernel.borrow_mut();
        let id = kernel.add(kind, 64);
        (id, kernel.number(id))
    }

    /// Gives a file one more number.
    pub(crate) fn dup(file: FileId) -> i32 {
        computer().kernel.borrow_mut().number(file)
    }
}
