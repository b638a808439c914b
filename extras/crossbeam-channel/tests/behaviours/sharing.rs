//! Handles: which belong together, and what they are to the compiler.

use crate::check;
use crossbeam_channel::{
    IntoIter, Iter, Receiver, Select, Sender, TryIter, after, at, bounded, never, tick, unbounded,
};
use std::cell::Cell;
use std::iter::FusedIterator;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

#[test]
fn clones_belong_to_the_same_channel() {
    check(|| {
        for capacity in super::CAPACITIES {
            let (sender, receiver) = super::channel::<u8>(capacity);
            let (other_sender, other_receiver) = super::channel(capacity);
            assert!(sender.same_channel(&sender.clone()));
            assert!(receiver.same_channel(&receiver.clone()));
            assert!(!sender.same_channel(&other_sender));
            assert!(!receiver.same_channel(&other_receiver));
        }
    });
}

#[test]
fn clocks_are_the_same_if_they_are_clones_and_never_always() {
    check(|| {
        let soon = Duration::from_millis(50);
        let make = || [after(soon), at(Instant::now()), tick(soon)];
        let (these, those) = (make(), make());
        for (i, this) in these.iter().enumerate() {
            assert!(this.same_channel(&this.clone()));
            assert!(those.iter().all(|that| !this.same_channel(that)));
            assert!(
                these
                    .iter()
                    .enumerate()
                    .all(|(j, that)| this.same_channel(that) == (i == j))
            );
            assert!(!this.same_channel(&never()) && !never().same_channel(this));
        }
        assert!(never::<u8>().same_channel(&never()));
        assert!(!unbounded::<Instant>().1.same_channel(&after(soon)));
    });
}

#[test]
fn debug_shows_the_type_alone() {
    check(|| {
        let (sender, receiver) = bounded::<Cell<u8>>(1);
        assert_eq!(
            format!("{sender:?} {receiver:?}"),
            "Sender { .. } Receiver { .. }"
        );
        assert_eq!(format!("{:?}", receiver.iter()), "Iter { .. }");
        assert_eq!(format!("{:?}", receiver.try_iter()), "TryIter { .. }");
        let mut select = Select::new();
        select.send(&sender);
        assert_eq!(format!("{select:?}"), "Select { .. }");
        let selected = select.select();
        assert_eq!(format!("{selected:?}"), "SelectedOperation { .. }");
        selected.send(&sender, Cell::new(0)).unwrap();
        assert_eq!(format!("{:?}", receiver.into_iter()), "IntoIter { .. }");
    });
}

#[test]
fn handles_are_shared_and_kept_over_panics() {
    fn shared<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}
    fn safe<T: UnwindSafe + RefUnwindSafe>() {}
    fn sent<T: Send + Sync>() {}
    fn fused<T: FusedIterator>() {}
    shared::<Sender<Cell<u8>>>();
    shared::<Receiver<Cell<u8>>>();
    safe::<Sender<*mut Cell<u8>>>();
    safe::<Receiver<*mut Cell<u8>>>();
    sent::<Select<'_>>();
    sent::<Iter<'_, u8>>();
    sent::<TryIter<'_, u8>>();
    sent::<IntoIter<u8>>();
    fused::<Iter<'_, u8>>();
    fused::<IntoIter<u8>>();
}
