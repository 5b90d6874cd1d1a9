//! The `rekeyd` command.

fn main() -> std::process::ExitCode {
    rekeyd::cli::main()
}
