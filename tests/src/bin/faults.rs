//! Faults with real sockets: see `gopark_tests::faults`. `ci/faults.sh` runs it.

fn main() -> std::process::ExitCode {
    gopark_tests::faults::main()
}
