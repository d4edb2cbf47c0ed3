//! The `assign` command.

fn main() -> std::process::ExitCode {
    assign::cli::main()
}
