//! Faults against real sockets: `ci/faults.sh` runs it. `gopark_tests::faults` says how.

fn main() -> std::process::ExitCode {
    gopark_tests::faults::main()
}
