//! Words in, words out: the command line of plimsoll.
//!
//! Owns arguments, the environment, standard output and the network. Must never do arithmetic on weights or decide where
//! a byte lives. The binary (`main.rs`) parses, runs one command of [`commands`] and prints at most one error.

mod answer;
pub mod args;
pub mod commands;
mod expert_stats;
pub mod failure;
pub mod fetch;
mod hardware;
mod input;
mod open;
mod output;
mod show;
mod signals;
mod speech;
mod sums;
pub mod text;
mod verify;
