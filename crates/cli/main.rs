//! The `plimsoll` program.

use std::process::ExitCode;

use clap::Parser;
use plimsoll::args::{Cli, spelled_out};
use plimsoll::{commands, failure};

fn main() -> ExitCode {
    // A wrong command line is printed by clap and ends with exit code 2, as every usage error does.
    let cli = Cli::parse_from(spelled_out(std::env::args_os()));
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
