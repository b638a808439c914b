//! Cancels that actors run in, shields, and what must hold of both.
//!
//! - An operation that says that it was cancelled lies in a cancel that was asked for or whose
//!   deadline has passed, or in a descendant of it, and in no shield.
//! - An operation that begins after the cancel of its actor has returned fails.
//! - At rest, no operation that can fail waits in a cancel that was cancelled, and the clock does
//!   not jump over the deadline of one.
//!
//! What was completed wins: the rules of values, permits and bytes hold for operations that were
//! cancelled, too.

use crate::computer::computer;
use crate::ledger::Cause;
use crate::oracle::Activity;
use crate::program::{Actor, Body, below, sched};
use crate::sharing::ledger;
use gopark_core::cancel::RawCancel;
use gopark_core::os::Nanos;
use gopark_core::select::Limit;
use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;

/// What the ledger knows of cancels.
#[derive(Default)]
pub(crate) struct Cancels {
    all: Vec<State>,
    /// What each actor is in, the innermost last. `None`: a shield.
    scopes: BTreeMap<usize, Vec<Option<usize>>>,
}

struct State {
    parent: Option<usize>,
    /// Whether a cancel has begun, and whether the one that has cancelled it has returned.
    begun: bool,
    ended: bool,
    /// The deadline.
    due: Nanos,
}

impl Cancels {
    /// The cancels that reach an actor: those that it is in, up to a shield.
    fn reaching(&self, actor: usize) -> impl Iterator<Item = usize> {
        let scopes = self.scopes.get(&actor).into_iter().flatten();
        scopes.rev().map_while(|scope| *scope)
    }

    /// A cancel and those whose cancel would cancel it.
    fn lineage(&self, cancel: usize) -> impl Iterator<Item = &State> {
        let cancels = iter::successors(Some(cancel), |&cancel| self.all[cancel].parent);
        cancels.map(|cancel| &self.all[cancel])
    }

    /// When a cancel is cancelled at the latest. In the past if one has begun.
    pub(crate) fn due(&self, cancel: usize) -> Nanos {
        let due = |state: &State| if state.begun { Nanos::MIN } else { state.due };
        self.lineage(cancel).map(due).min().unwrap_or(Nanos::MAX)
    }

    /// When an actor is cancelled at the latest.
    pub(crate) fn reaches_at(&self, actor: usize) -> Nanos {
        let due = self.reaching(actor).map(|cancel| self.due(cancel));
        due.min().unwrap_or(Nanos::MAX)
    }

    /// Whether an actor is cancelled for certain: the cancel has returned, and it did not leave the
    /// actor to another one that was under way.
    fn is_doomed(&self, actor: usize, now: Nanos) -> bool {
        let is_under_way = |state: &&State| state.ended || state.begun || state.due <= now;
        let mut first = self
            .reaching(actor)
            .filter_map(|cancel| self.lineage(cancel).find(is_under_way))
            .peekable();
        first.peek().is_some() && first.all(|state| state.ended)
    }
}

/// A cancel with its number in the ledger.
pub(crate) struct Scope {
    raw: RawCancel,
    id: usize,
}

impl Scope {
    fn new(parent: Option<&Scope>, due: Option<Nanos>) -> Self {
        let id = ledger(|ledger| {
            ledger.cancels.all.push(State {
                parent: parent.map(|parent| parent.id),
                begun: false,
                ended: false,
                due: due.unwrap_or(Nanos::MAX),
            });
            ledger.cancels.all.len() - 1
        });
        let raw = match parent {
            Some(parent) => parent.raw.child(),
            None => RawCancel::new(sched()),
        };
        if let Some(due) = due {
            let has_passed = due <= computer().now();
            raw.set_deadline(Some(due));
            if has_passed && !raw.is_cancelled() {
                computer().fail(format!(
                    "the deadline of cancel {id} had passed, but it waits"
                ));
            }
        }
        Scope { raw, id }
    }

    fn cancel(&self) {
        computer().step("cancel", [self.id as u64, 0]);
        let had_ended = ledger(|ledger| {
            let state = &mut ledger.cancels.all[self.id];
            state.begun = true;
            state.ended
        });
        let first = self.raw.cancel();
        computer().note("cancelled", [self.id as u64, first.into()]);
        if first && had_ended || !self.raw.is_cancelled() {
            computer().fail(format!("cancel {}: {first} after {had_ended}", self.id));
        }
        ledger(|ledger| ledger.cancels.all[self.id].ended |= first);
    }
}

impl Actor {
    fn inside<T>(self, cancel: Option<usize>, f: impl FnOnce() -> T) -> T {
        let scopes = |change: &dyn Fn(&mut Vec<Option<usize>>)| {
            ledger(|ledger| change(ledger.cancels.scopes.entry(self.0).or_default()));
        };
        scopes(&|scopes| scopes.push(cancel));
        let result = f();
        scopes(&|scopes| _ = scopes.pop());
        result
    }

    /// Runs `f` in a cancel.
    fn within<T>(self, scope: &Scope, f: impl FnOnce() -> T) -> T {
        scope.raw.run(|| self.inside(Some(scope.id), f))
    }

    /// Runs `f` in a shield.
    pub(crate) fn shielded<T>(self, f: impl FnOnce() -> T) -> T {
        sched().shield(|| self.inside(None, f))
    }

    /// Whether an operation that begins now must fail.
    pub(crate) fn is_doomed(self) -> bool {
        ledger(|ledger| ledger.cancels.is_doomed(self.0, computer().now()))
    }

    /// Whether a cancel may have ended an operation that ends now.
    pub(crate) fn may_be_cancelled(self) -> bool {
        ledger(|ledger| ledger.cancels.reaches_at(self.0)) <= computer().now()
    }

    /// An operation says that it was cancelled.
    pub(crate) fn was_cancelled(self) {
        computer().note("cancelled", [self.0 as u64, 99]);
        if !self.may_be_cancelled() {
            computer().fail(format!("actor {} was cancelled by no actor", self.0));
        }
    }

    /// An operation has ended in another way.
    pub(crate) fn was_not_cancelled(self, doomed: bool) {
        if doomed {
            computer().fail(format!(
                "actor {} was cancelled, but waits and goes on",
                self.0
            ));
        }
    }

    /// Waits until a cancel is cancelled.
    fn await_cancel(self, scope: &Scope) {
        let doomed = self.is_doomed();
        let causes = vec![Cause::Cancel(scope.id)];
        match self.awaits(causes, Limit::Never, || scope.raw.wait()) {
            Err(_) => return self.was_cancelled(),
            Ok(()) => self.was_not_cancelled(doomed),
        }
        if ledger(|ledger| ledger.cancels.due(scope.id)) > computer().now() {
            computer().fail(format!("the wait for cancel {} has ended early", scope.id));
        }
    }
}

/// Whether a cancel ends what an actor does.
pub(crate) fn ends(doing: Activity) -> bool {
    matches!(
        doing,
        Activity::Wait(..) | Activity::Sema(_) | Activity::Join(_) | Activity::Sleep(_)
    )
}

fn draw_due() -> Option<Nanos> {
    let now = computer().now();
    match below(8) {
        0 => Some(now),
        1 | 2 => Some(now + 1 + below(3_000_000) as Nanos),
        _ => None,
    }
}

/// Puts some of the actors into cancels, and adds actors that cancel these.
///
/// Each cancel has at most one child: the order of children is that of addresses, which differ
/// between two runs.
pub(crate) fn draw(parts: &mut Vec<Body>) {
    if below(2) == 0 {
        return;
    }
    let mut scopes: Vec<Arc<Scope>> = Vec::new();
    for _ in 0..1 + below(3) {
        let parent = scopes.last().map(|parent| &**parent);
        let scope = Scope::new(parent, draw_due());
        scopes.push(Arc::new(scope));
    }
    let pick = || scopes[below(scopes.len() as u64) as usize].clone();
    for part in &mut *parts {
        let body = std::mem::replace(part, Box::new(|_| ()));
        *part = match below(6) {
            0 | 1 => body,
            2 => {
                let scope = pick();
                Box::new(move |actor| actor.within(&scope, || actor.shielded(|| body(actor))))
            }
            3 => {
                let (outer, scope) = (pick(), pick());
                Box::new(move |actor| {
                    let unrelated = Scope::new(None, draw_due());
                    actor.within(&outer, || {
                        actor.within(&unrelated, || actor.sleep(below(200_000)));
                        actor.within(&scope, || body(actor));
                    });
                })
            }
            _ => {
                let scope = pick();
                Box::new(move |actor| actor.within(&scope, || body(actor)))
            }
        };
    }
    for _ in 0..below(3) {
        let scope = pick();
        parts.push(Box::new(move |actor| {
            actor.sleep(below(3_000_000));
            scope.cancel();
        }));
    }
    if below(3) == 0 {
        let (scope, theirs, outer) = (pick(), pick(), pick());
        let awaited = scope.clone();
        parts.push(Box::new(move |actor| {
            actor.within(&outer, || actor.await_cancel(&awaited));
            actor.within(&theirs, || actor.sleep(below(1_000_000)));
        }));
        parts.push(Box::new(move |actor| {
            actor.sleep(below(3_000_000));
            scope.cancel();
        }));
    }
}
