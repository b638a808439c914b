//! The programs on one P.

#[path = "programs/all.rs"]
mod programs;

fn check(program: impl FnOnce() + Send + 'static) {
    programs::run(gopark::Builder::new().max_procs(1), program);
}
