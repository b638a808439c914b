//! The simulated kernel: streams, listeners and broken devices behind descriptor numbers, packets
//! in flight, and what each poller watches.
//!
//! Only the length of a stream's data is simulated: the scheduler never sees the bytes. Readiness
//! follows the rules of a real kernel: each arrival makes an edge, an edge stays until a poll
//! fetches it, and the poll reports what is ready at that moment.

#[path = "kernel/calls.rs"]
mod calls;

use crate::computer::{Computer, FAR, State};
use gopark_core::os::{Errno, Event, Events, Mode, Nanos, Ready};
use gopark_core::tagptr::TaggedPtr;
use std::collections::{BTreeMap, VecDeque};

pub(crate) const EMFILE: i32 = 24;
pub(crate) const EPIPE: i32 = 32;
pub(crate) const ENOMEM: i32 = 12;
pub(crate) const ECONNRESET: i32 = 104;
pub(crate) const ECONNREFUSED: i32 = 111;

/// The number of a file, unique in a run.
pub(crate) type FileId = usize;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Kind {
    Stream,
    Listener,
    /// A stream before its connect, during it, and after a refused one.
    Unconnected,
    Connecting,
    Refused,
    /// A device that reports an error and nothing else.
    Broken,
}

pub(crate) struct File {
    pub(crate) kind: Kind,
    peer: Option<FileId>,
    /// Bytes that a read can take.
    buffer: usize,
    /// Bytes that the peer has not read, those in flight included.
    owed: usize,
    capacity: usize,
    /// How many bytes precede the urgent mark. A read stops there.
    mark: Option<usize>,
    /// The peer has shut down its sending half.
    fin: bool,
    /// This end has shut down its sending half.
    shut: bool,
    reset: bool,
    error: Option<i32>,
    /// A write found no room: the next room makes an edge.
    wants_room: bool,
    /// Connections that wait for an accept.
    queue: VecDeque<FileId>,
    watch: Option<Watch>,
    /// How many descriptor numbers name the file.
    numbers: usize,
    closed: bool,
    /// The message under way: its sender, and how many of its bytes are written.
    message: (u64, usize),
    /// A poll has reported `ERROR` and nothing else of it.
    pub(crate) told_error: bool,
    /// The kernel has refused to watch or to read it.
    pub(crate) refused: bool,
    last_arrival: Nanos,
}

struct Watch {
    poller: usize,
    token: TaggedPtr,
    /// The directions that are armed, for a level-triggered poller.
    armed: Ready,
    enabled: bool,
}

#[derive(Clone, Copy, Debug)]
enum Packet {
    Bytes(usize),
    Urgent,
    Fin,
    Reset,
    Accepted(FileId),
    Refused,
    Connection(FileId),
}

pub(crate) struct Poller {
    /// Whether the poller is level-triggered: it reports only what is armed.
    asks: bool,
    ready: VecDeque<FileId>,
    pub(crate) wake: bool,
    /// Tokens of watches that have ended. A late event may carry one of them.
    stale: Vec<TaggedPtr>,
}

pub(crate) struct Kernel {
    pub(crate) files: Vec<File>,
    /// The files that the numbers from 3 on name.
    numbers: Vec<Option<FileId>>,
    packets: BTreeMap<(Nanos, u64), (FileId, Packet)>,
    packet: u64,
    pub(crate) pollers: Vec<Poller>,
    pub(crate) level: bool,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Kernel {
            files: Vec::new(),
            numbers: Vec::new(),
            packets: BTreeMap::new(),
            packet: 0,
            pollers: Vec::new(),
            level: false,
        }
    }

    pub(crate) fn next_event(&self) -> Nanos {
        self.packets
            .first_key_value()
            .map_or(FAR, |((hour, _), _)| *hour)
    }

    /// Delivers the packets that are due.
    pub(crate) fn deliver(computer: &Computer) {
        let mut kernel = computer.kernel.borrow_mut();
        while let Some(entry) = kernel.packets.first_entry() {
            if entry.key().0 > computer.now() {
                break;
            }
            let (file, packet) = entry.remove();
            computer.note("arrives", [file as u64, packet.number()]);
            kernel.arrive(computer, file, packet);
        }
    }

    fn send(&mut self, computer: &Computer, to: FileId, packet: Packet) {
        let travel = computer.dice.below(computer.odds.latency) as Nanos;
        let file = &mut self.files[to];
        // Packets to one file arrive in the order in which they were sent.
        file.last_arrival = file.last_arrival.max(computer.now() + travel);
        self.packet += 1;
        self.packets
            .insert((file.last_arrival, self.packet), (to, packet));
    }

    fn arrive(&mut self, computer: &Computer, to: FileId, packet: Packet) {
        let file = &mut self.files[to];
        if file.closed {
            match (packet, file.peer) {
                (Packet::Connection(server), _) => {
                    let client = self.files[server].peer.expect("made with it");
                    self.send(computer, client, Packet::Refused);
                }
                (Packet::Bytes(_) | Packet::Urgent, Some(peer)) | (Packet::Accepted(peer), _) => {
                    self.send(computer, peer, Packet::Reset)
                }
                _ => {}
            }
            return;
        }
        match packet {
            Packet::Bytes(n) => file.buffer += n,
            Packet::Urgent => file.mark = Some(file.buffer),
            Packet::Fin => file.fin = true,
            Packet::Reset => (file.reset, file.error) = (true, Some(ECONNRESET)),
            Packet::Accepted(peer) => (file.kind, file.peer) = (Kind::Stream, Some(peer)),
            Packet::Refused => (file.kind, file.error) = (Kind::Refused, Some(ECONNREFUSED)),
            Packet::Connection(peer) => {
                file.queue.push_back(peer);
                if let Some(client) = self.files[peer].peer {
                    self.send(computer, client, Packet::Accepted(peer));
                }
            }
        }
        self.edge(computer, to);
    }

    /// The state of a file has changed: queues an event if its poller reports the new state.
    fn edge(&mut self, computer: &Computer, id: FileId) {
        let ready = self.files[id].readiness();
        let Some(watch) = &self.files[id].watch else {
            return;
        };
        let poller = watch.poller;
        if watch.reports(ready, self.pollers[poller].asks).is_empty() {
            return;
        }
        let list = &mut self.pollers[poller].ready;
        if !list.contains(&id) {
            list.push_back(id);
        }
        computer.wake_where(|state| matches!(state, State::Poll { poller: p, .. } if p == poller));
    }

    fn file(kind: Kind, capacity: usize) -> File {
        File {
            kind,
            peer: None,
            buffer: 0,
            owed: 0,
            capacity,
            mark: None,
            fin: false,
            shut: false,
            reset: false,
            error: None,
            wants_room: false,
            queue: VecDeque::new(),
            watch: None,
            numbers: 0,
            closed: false,
            message: (0, 0),
            told_error: false,
            refused: false,
            last_arrival: 0,
        }
    }

    fn add(&mut self, kind: Kind, capacity: usize) -> FileId {
        self.files.push(Self::file(kind, capacity));
        self.files.len() - 1
    }

    /// Gives `file` the lowest free number, as POSIX does.
    fn number(&mut self, file: FileId) -> i32 {
        let place = self
            .numbers
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.numbers.push(None);
                self.numbers.len() - 1
            });
        self.numbers[place] = Some(file);
        self.files[file].numbers += 1;
        place as i32 + 3
    }

    fn named(&self, number: i32) -> Option<FileId> {
        *self.numbers.get(usize::try_from(number - 3).ok()?)?
    }

    /// Notes that `done` bytes of `message` are written. Returns whether another message came in
    /// between.
    pub(crate) fn part(&mut self, file: FileId, message: u64, done: usize) -> bool {
        let before = std::mem::replace(&mut self.files[file].message, (message, done));
        done > 0 && before.0 != message
    }

    /// Whether `number` names `file`.
    pub(crate) fn names(&self, number: i32, file: FileId) -> bool {
        self.named(number) == Some(file)
    }

    pub(crate) fn open_numbers(&self) -> usize {
        self.numbers.iter().flatten().count()
    }

    pub(crate) fn watched(&self) -> usize {
        self.files.iter().filter(|file| file.is_watched()).count()
    }

    /// Whether an operation in this direction could make progress.
    pub(crate) fn could(&self, file: FileId, mode: Mode) -> bool {
        let bit = if mode == Mode::Read {
            Ready::READ
        } else {
            Ready::WRITE
        };
        self.files[file].readiness().contains(bit)
    }

    /// A poller with events that it has not fetched.
    pub(crate) fn unfetched(&self) -> Option<usize> {
        let reports = |id: &FileId, poller: &Poller| {
            let file = &self.files[*id];
            file.watch
                .as_ref()
                .is_some_and(|watch| !watch.reports(file.readiness(), poller.asks).is_empty())
        };
        self.pollers
            .iter()
            .position(|poller| poller.ready.iter().any(|id| reports(id, poller)))
    }

    fn drop_number(&mut self, computer: &Computer, number: i32) {
        let Some(id) = self.named(number) else {
            return computer.fail(format!("close of {number}, which is not open"));
        };
        self.numbers[number as usize - 3] = None;
        self.files[id].numbers -= 1;
        if self.files[id].numbers > 0 {
            return;
        }
        // The watch goes with the last number, as in epoll.
        self.unwatch(id);
        let file = &mut self.files[id];
        file.closed = true;
        let (unread, shut, queue) = (file.buffer > 0, file.shut, std::mem::take(&mut file.queue));
        match file.peer {
            Some(peer) if unread => self.send(computer, peer, Packet::Reset),
            Some(peer) if !shut => self.send(computer, peer, Packet::Fin),
            _ => {}
        }
        for server in queue {
            self.files[server].closed = true;
            let client = self.files[server].peer.expect("made with it");
            self.send(computer, client, Packet::Reset);
        }
    }

    fn unwatch(&mut self, id: FileId) {
        if let Some(watch) = self.files[id].watch.take() {
            let poller = &mut self.pollers[watch.poller];
            poller.ready.retain(|&other| other != id);
            poller.stale.push(watch.token);
        }
    }
}

impl Packet {
    fn number(self) -> u64 {
        match self {
            Packet::Bytes(n) => n as u64,
            Packet::Urgent => 1001,
            Packet::Fin => 1002,
            Packet::Reset => 1003,
            Packet::Accepted(_) => 1004,
            Packet::Refused => 1005,
            Packet::Connection(_) => 1006,
        }
    }
}

impl File {
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    fn readiness(&self) -> Ready {
        let both = Ready::READ | Ready::WRITE | Ready::HANGUP;
        let mut ready = Ready::empty();
        match self.kind {
            // Linux reports an unconnected socket as writable and hung up.
            Kind::Unconnected => return both,
            Kind::Connecting => return ready,
            Kind::Broken => return both | Ready::ERROR,
            Kind::Listener => {
                ready.set(Ready::READ, !self.queue.is_empty());
                return ready;
            }
            Kind::Refused => return both,
            Kind::Stream => {}
        }
        if self.reset || (self.fin && self.shut) {
            return both;
        }
        ready.set(Ready::READ, self.buffer > 0);
        if self.fin || self.mark.is_some() {
            ready |= Ready::READ | Ready::HANGUP;
        }
        ready.set(Ready::WRITE, self.shut || self.room() > self.capacity / 3);
        ready
    }

    /// Room in the peer's buffer, as far as this end knows.
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.owed)
    }
}

impl Watch {
    /// What a poll reports of a file that is `ready`.
    fn reports(&self, ready: Ready, asks: bool) -> Ready {
        if !asks {
            return ready;
        }
        // HUP and ERR stand for both directions and a hang-up. An enabled watch reports them even
        // if nothing is armed.
        let full = Ready::READ | Ready::WRITE | Ready::HANGUP;
        match self.enabled {
            false => Ready::empty(),
            true if ready.contains(full) => ready,
            true if (ready & self.armed).is_empty() => Ready::empty(),
            true => ready & (self.armed | Ready::HANGUP),
        }
    }
}

/// What the simulated poller asks the kernel to do.
impl Kernel {
    pub(crate) fn add_poller(&mut self) -> usize {
        self.pollers.push(Poller {
            asks: self.level,
            ready: VecDeque::new(),
            wake: false,
            stale: Vec::new(),
        });
        self.pollers.len() - 1
    }

    pub(crate) fn watch(
        &mut self,
        computer: &Computer,
        poller: usize,
        number: i32,
        token: TaggedPtr,
    ) -> Result<(), Errno> {
        let Some(id) = self.named(number) else {
            computer.fail(format!("{number} is watched, which is not open"));
            return Ok(());
        };
        if computer.one_in(computer.odds.refuse) {
            self.files[id].refused = true;
            return Err(Errno::new(ENOMEM));
        }
        if self.files[id].watch.is_some() {
            computer.fail(format!("{number} is watched twice"));
        }
        self.files[id].watch = Some(Watch {
            poller,
            token,
            armed: Ready::empty(),
            enabled: true,
        });
        self.edge(computer, id);
        Ok(())
    }

    pub(crate) fn forget(&mut self, poller: usize, number: i32) {
        if let Some(id) = self.named(number) {
            if self.files[id]
                .watch
                .as_ref()
                .is_some_and(|watch| watch.poller == poller)
            {
                self.unwatch(id);
            }
        }
    }

    pub(crate) fn arm(&mut self, computer: &Computer, number: i32, token: TaggedPtr, mode: Mode) {
        let Some(id) = self.named(number).filter(|_| self.level) else {
            return;
        };
        let Some(watch) = self.files[id]
            .watch
            .as_mut()
            .filter(|watch| watch.token == token)
        else {
            return;
        };
        let bit = if mode == Mode::Read {
            Ready::READ
        } else {
            Ready::WRITE
        };
        if !watch.armed.contains(bit) {
            watch.armed |= bit;
            watch.enabled = true;
            self.edge(computer, id);
        }
    }

    /// Fetches events. May leave some for later, and may add one that is spurious.
    pub(crate) fn fetch(
        &mut self,
        computer: &Computer,
        poller: usize,
        waits: bool,
        events: &mut Events,
    ) {
        let some = |count: usize| {
            if computer.one_in(computer.odds.late) {
                computer.dice.below(count as u64 + 1) as usize
            } else {
                count
            }
        };
        let count = self.pollers[poller].ready.len();
        let mut count = some(count).max(usize::from(waits && count > 0));
        while count > 0 && !events.is_full() {
            let Some(id) = self.pollers[poller].ready.pop_front() else {
                break;
            };
            let (asks, file) = (self.pollers[poller].asks, &mut self.files[id]);
            let (ready, watch) = (
                file.readiness(),
                file.watch.as_mut().expect("a listed file is watched"),
            );
            let reported = watch.reports(ready, asks);
            // As Linux does: a poll that finds no room asks to be told of it.
            file.wants_room |= !ready.contains(Ready::WRITE);
            if reported.is_empty() {
                continue;
            }
            count -= 1;
            events
                .push(Event {
                    token: watch.token,
                    ready: reported,
                })
                .expect("room was checked");
            computer.note("event", [id as u64, reported.bits().into()]);
            file.told_error |= reported.contains(Ready::ERROR);
            if asks {
                watch.armed -= reported;
                watch.enabled = !watch.armed.is_empty();
                self.edge(computer, id);
            }
        }
        if !events.is_full() && computer.one_in(computer.odds.spurious) {
            self.invent(computer, poller, events);
        }
    }

    /// Adds an event for a descriptor that is not ready, or for one that is closed.
    fn invent(&self, computer: &Computer, poller: usize, events: &mut Events) {
        let live = self
            .files
            .iter()
            .filter(|file| file.kind != Kind::Broken)
            .filter_map(|file| file.watch.as_ref())
            .filter(|watch| watch.poller == poller);
        let tokens: Vec<TaggedPtr> = live
            .map(|watch| watch.token)
            .chain(self.pollers[poller].stale.iter().copied())
            .collect();
        if tokens.is_empty() {
            return;
        }
        let stale_from = tokens.len() - self.pollers[poller].stale.len();
        let chosen = computer.dice.below(tokens.len() as u64) as usize;
        let some = [
            Ready::READ,
            Ready::WRITE,
            Ready::READ | Ready::WRITE,
            Ready::READ | Ready::WRITE | Ready::HANGUP | Ready::ERROR,
        ];
        // `ERROR` for a live descriptor would be true for the rest of its life. For a closed one,
        // core must ignore it.
        let kinds = if chosen < stale_from { 3 } else { 4 };
        let ready = some[computer.dice.below(kinds) as usize];
        computer.note("invented", [chosen as u64, ready.bits().into()]);
        events
            .push(Event {
                token: tokens[chosen],
                ready,
            })
            .expect("room was checked");
    }
}
