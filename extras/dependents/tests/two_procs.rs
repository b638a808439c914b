//! The programs on two Ps.

#[path = "programs/all.rs"]
mod programs;

fn check(program: impl FnOnce() + Send + 'static) {
    programs::run(gopark::Builder::new().max_procs(2), program);
}
