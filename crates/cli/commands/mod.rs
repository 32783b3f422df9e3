//! One module per command; each turns its arguments into output on stdout.

mod inspect;
mod plan;
mod probe;
mod profile;

use clap::CommandFactory;

use crate::args::{Cli, Command, CompletionsArgs, PullArgs};
use crate::{fetch, show};

/// Runs one command to its end.
///
/// # Errors
/// Whatever stopped it; [`crate::failure`] turns that into a message and an exit code.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Plan(args) => plan::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Pull(args) => pull(&args),
        Command::Profile(command) => profile::run(&command),
        Command::Completions(args) => completions(&args),
        _ => Ok(()),
    }
}

fn pull(args: &PullArgs) -> anyhow::Result<()> {
    let path = fetch::pull(&args.model, args.offline)?;
    show::product(&format!("{}\n", path.display()))
}

fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "plimsoll", &mut script);
    show::product(&String::from_utf8_lossy(&script))
}
