//! The hooks of `Builder`: `on_switch` and `on_leak`.

#[path = "hooks/leaks.rs"]
mod leaks;
#[path = "hooks/programs.rs"]
mod programs;
#[path = "hooks/switches.rs"]
mod switches;

use gopark::Builder;
use gopark_tests::turns;

fn start() {
    let settings = Builder::new().max_procs(2);
    gopark_tests::start(settings.on_switch(turns::log).on_leak(leaks::note));
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    start();
    gopark_tests::in_goroutine(behaviour);
}
