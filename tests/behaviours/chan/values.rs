//! Values of all kinds, and what becomes of them.

use super::{Drops, until_waits};
use crate::check;
use gopark::chan::{self, Receiver, Sender, TrySendError};
use gopark::go;
use gopark_tests::join;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

/// Sends values to a receiver that waits, into a buffer, and from a sender that waits.
fn pass<T: Send + 'static>(make: impl Fn(usize) -> T, is: impl Fn(usize, T) -> bool) {
    for capacity in [0, 1, 40, usize::MAX] {
        let (sender, receiver) = chan::bounded(capacity);
        let theirs = receiver.clone();
        let receives = go(move || theirs.recv().unwrap());
        until_waits(&receives);
        sender.send(make(0)).unwrap();
        assert!(is(0, join(receives)));
        let room = capacity.min(100);
        (0..room).for_each(|i| assert!(sender.try_send(make(i)).is_ok()));
        if capacity != usize::MAX {
            let value = make(room);
            let sends = go(move || sender.send(value).is_ok());
            until_waits(&sends);
            (0..=room).for_each(|i| assert!(is(i, receiver.recv().unwrap())));
            assert!(join(sends));
        } else {
            (0..room).for_each(|i| assert!(is(i, receiver.recv().unwrap())));
        }
    }
}

#[test]
fn values_of_any_size_arrive_as_they_were_sent() {
    check(|| {
        pass(|_| (), |_, ()| true);
        pass(|i| i as u8, |i, value| value == i as u8);
        pass(|i| [i as u64; 512], |i, value| value == [i as u64; 512]);
        pass(
            |i| vec![i; 200_000],
            |i, value| value.len() == 200_000 && value[199_999] == i,
        );
        pass(|i| i.to_string(), |i, value| value == i.to_string());
        #[repr(align(128))]
        struct Aligned(usize);
        pass(Aligned, |i, value| {
            value.0 == i && (&raw const value).addr() % 128 == 0
        });
        pass(
            |i| Box::new(move || i * 2) as Box<dyn Fn() -> usize + Send>,
            |i, value| value() == i * 2,
        );
        pass(
            |i| if i % 2 == 0 { Some(Box::new(i)) } else { None },
            |i, value| value.map_or(i % 2 == 1, |value| *value == i),
        );
    });
}

/// A type without values can be in a channel that is only closed.
#[test]
fn a_channel_without_values_closes() {
    check(|| {
        let (sender, receiver) = chan::bounded::<std::convert::Infallible>(0);
        let waits = go(move || receiver.recv().is_err());
        until_waits(&waits);
        drop(sender);
        assert!(join(waits));
    });
}

#[test]
fn a_value_that_was_not_sent_comes_back_and_is_dropped_once() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::bounded(0);
        let back = sender.try_send(drops.value(1)).unwrap_err();
        assert!(matches!(back, TrySendError::Full(ref value) if value.id == 1));
        assert_eq!(drops.count(), 0);
        drop(back);
        assert_eq!(drops.count(), 1);
        receiver.close();
        assert_eq!(sender.send(drops.value(2)).unwrap_err().into_inner().id, 2);
        assert_eq!(drops.count(), 2);
    });
}

#[test]
fn the_drop_of_the_last_receiver_drops_the_values_in_the_channel() {
    check(|| {
        for (sent, received) in [(1, 0), (31, 1), (100, 0), (100, 33), (100, 100)] {
            let drops = Drops::default();
            let (sender, receiver) = chan::unbounded();
            (0..sent).for_each(|i| sender.send(drops.value(i)).unwrap());
            (0..received).for_each(|_| drop(receiver.recv()));
            let other = receiver.clone();
            drop(receiver);
            assert_eq!(drops.count(), received);
            drop(other);
            assert_eq!(drops.count(), sent, "the sender still exists");
            assert!(sender.send(drops.value(0)).is_err());
            assert_eq!(drops.count(), sent + 1);
        }
    });
}

#[test]
fn values_left_in_a_channel_without_senders_are_dropped_with_the_receiver() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::bounded(50);
        (0..50).for_each(|i| sender.send(drops.value(i)).unwrap());
        drop(sender);
        assert_eq!(drops.count(), 0);
        assert_eq!(receiver.len(), 50);
        drop(receiver);
        assert_eq!(drops.count(), 50);
    });
}

/// Panics when it is dropped, if it is told to.
struct Bomb {
    armed: bool,
    _counted: super::Counted,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.armed {
            panic::resume_unwind(Box::new("the bomb"));
        }
    }
}

#[test]
fn a_value_that_panics_when_it_is_dropped_does_no_harm_to_the_others() {
    check(|| {
        for senders_first in [false, true] {
            let drops = Drops::default();
            let bomb = |id| Bomb {
                armed: id == 3,
                _counted: drops.value(id),
            };
            let (sender, receiver) = chan::unbounded();
            (0..70).for_each(|id| assert!(sender.send(bomb(id)).is_ok()));
            let mut sender = Some(sender);
            if senders_first {
                sender = None;
            }
            let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(receiver)));
            assert_eq!(
                dropped.unwrap_err().downcast_ref::<&str>(),
                Some(&"the bomb")
            );
            if let Some(sender) = sender {
                assert!(sender.is_closed());
                assert!(sender.send(bomb(100)).is_err());
                drop(sender);
                assert_eq!(drops.count(), 71);
            } else {
                assert_eq!(drops.count(), 70);
            }
        }
    });
}

#[test]
fn a_goroutine_that_panics_closes_the_channels_whose_only_ends_it_holds() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::unbounded();
        let (to_it, its) = chan::bounded(0);
        let value = drops.value(7);
        let panics = go(move || {
            let _its: Receiver<u8> = its;
            sender.send(value).unwrap();
            panic::resume_unwind(Box::new(()));
        });
        assert!(to_it.send(1).is_err());
        assert_eq!(receiver.recv().unwrap().id, 7);
        assert!(receiver.recv().is_err());
        assert!(panics.join().is_err());
        assert_eq!(drops.count(), 1);
    });
}

/// A message of an actor, with the channel on which to answer.
struct Request(u32, Sender<u32>);

#[test]
fn a_channel_can_be_sent_through_another() {
    check(|| {
        let (requests, to_serve) = chan::bounded::<Request>(0);
        let serves = go(move || {
            to_serve
                .iter()
                .map(|Request(n, answer)| answer.send(n * n).unwrap())
                .count()
        });
        for n in 0..50 {
            let (answer, answers) = chan::bounded(0);
            requests.send(Request(n, answer)).unwrap();
            assert_eq!(answers.recv(), Ok(n * n));
            assert!(answers.recv().is_err());
        }
        drop(requests);
        assert_eq!(join(serves), 50);
    });
}

struct Link {
    _to_itself: Sender<Link>,
    _counted: super::Counted,
}

#[test]
fn a_channel_can_be_sent_through_itself() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::unbounded();
        let link = |sender: &Sender<Link>| Link {
            _to_itself: sender.clone(),
            _counted: drops.value(0),
        };
        assert!(sender.send(link(&sender)).is_ok());
        assert!(sender.send(link(&sender)).is_ok());
        drop(sender);
        // The senders in the channel keep it open.
        let first = receiver.recv().unwrap();
        assert!(!receiver.is_closed());
        drop(receiver);
        assert_eq!(drops.count(), 1);
        drop(first);
        assert_eq!(drops.count(), 2);
    });
}

/// Go hands a channel on through itself: each holder sends the end to the next one.
#[test]
fn a_receiver_moves_through_its_own_channel() {
    struct Baton(Receiver<Baton>, Arc<()>);

    check(|| {
        let (sender, receiver) = chan::bounded(1);
        let held = Arc::new(());
        let theirs = held.clone();
        let first = receiver.clone();
        assert!(sender.send(Baton(first, theirs)).is_ok());
        let Baton(mut own, mark) = receiver.recv().unwrap();
        drop(receiver);
        for _ in 0..10 {
            let next = own.clone();
            assert!(sender.send(Baton(next, mark.clone())).is_ok());
            own = own.recv().unwrap().0;
        }
        drop((own, mark));
        assert!(sender.is_closed());
        assert_eq!(Arc::strong_count(&held), 1);
    });
}
