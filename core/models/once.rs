//! Models of the one-time initialization. Its initializer writes a [`Mail`]: loom reports a race if
//! it runs twice, or if a caller reads too early.

use super::RawOnce;
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::os::Nanos;
use crate::runtime::Runtime;
use crate::sched::Sched;
use loom::thread;

/// All threads of a model have the same number. Without a started scheduler they have none.
#[derive(Clone, Copy)]
struct NotStarted(&'static Sched);

impl Runtime for NotStarted {
    type Instant = Nanos;

    fn sched(self) -> &'static Sched {
        self.0
    }

    fn started(self) -> Option<&'static Sched> {
        None
    }

    fn nanos(self, limit: Nanos) -> Nanos {
        limit
    }

    fn now(self) -> Nanos {
        0
    }
}

type Shared = (RawOnce<NotStarted>, Mail);

fn run<F: Fn(&'static Shared) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let shared = Immortal::new((RawOnce::new(NotStarted(owner.get())), Mail::new()));
        model(shared.get());
    });
}

#[test]
fn one_initializer_runs_and_all_callers_see_what_it_wrote() {
    run(|(once, mail)| {
        let call = || {
            once.call(false, |_| mail.put(mail.get() + 1));
            assert_eq!(mail.get(), 1);
        };
        let others = [(), ()].map(|()| thread::spawn(call));
        call();
        for other in others {
            other.join().unwrap();
        }
    });
}
