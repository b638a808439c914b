//! The fuzz targets of core.
//!
//! A target is a function that reads its input as a program, runs the program on core's own code
//! and on a plain model of that code, and panics where the two differ. It is a child of the module
//! that it drives and sees its private items. `ci/fuzz.sh` runs the targets with libFuzzer. The
//! tests below run them on stable Rust over the committed corpus and over random inputs.

pub(crate) mod base;
#[cfg(all(test, not(loom)))]
#[allow(unreachable_pub, reason = "the conformance suite includes it too")]
mod check;
pub(crate) mod poller;

pub use crate::cancel::fuzz::run as cancel;
pub use crate::chan::fuzz::run as chan;
pub use crate::choice::fuzz::run as choice;
pub use crate::fdmutex::fuzz::run as fdmutex;
pub use crate::futex::fuzz::run as futex;
pub use crate::locked_queue::fuzz::run as locks;
pub use crate::polldesc::fuzz::run as polldesc;
pub use crate::runq::fuzz::run as runq;
pub use crate::tagptr::fuzz::run as tagptr;
pub use crate::timer::fuzz::run as timer_heap;
pub use crate::waiter::fuzz::run as waiter;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::check::check;

    #[test]
    fn a_tagged_pointer_keeps_address_and_tag() {
        check("tagptr", 50_000, super::tagptr);
    }

    #[test]
    fn wait_slots_follow_their_table() {
        check("waiter", 10_000, super::waiter);
    }

    #[test]
    fn queues_of_waiters_serve_the_first_whose_choice_is_open() {
        check("choice", 10_000, super::choice);
    }

    #[test]
    fn cancels_agree_with_a_plain_tree() {
        check("cancel", 5_000, super::cancel);
    }

    #[test]
    fn channels_and_selects_agree_with_plain_queues() {
        check("chan", 10_000, super::chan);
    }

    #[test]
    fn locks_and_their_waiters_agree_with_plain_queues() {
        check("locks", 10_000, super::locks);
    }

    #[test]
    fn futexes_agree_with_plain_lists() {
        check("futex", 10_000, super::futex);
    }

    #[test]
    fn the_timer_heap_fires_like_a_sorted_list() {
        check("timer_heap", 5_000, super::timer_heap);
    }

    #[test]
    fn a_removed_timer_gives_its_place_to_an_earlier_one() {
        // Entries due after 2, 20, 4, 100, 100, 22, 102, 102, 102 and 6. The one due after 22 is a
        // limit below the one due after 20. The last takes its place.
        super::timer_heap(&[
            0, 4, 5, 40, 10, 8, 15, 200, 20, 200, 200, 44, 30, 204, 35, 204, 40, 204, 45, 12, 202,
            0,
        ]);
    }

    #[test]
    fn run_queues_hand_out_each_goroutine_once() {
        check("runq", 1_000, super::runq);
    }

    #[test]
    fn the_descriptor_mutex_follows_its_table() {
        check("fdmutex", 10_000, super::fdmutex);
    }

    #[test]
    fn poll_descriptors_follow_the_protocol() {
        check("polldesc", 10_000, super::polldesc);
    }
}
