//! One integration target: decisions, forecasts and texts, over recorded models and machines.

mod aims;
mod cards;
mod common;
mod configs;
mod cost;
mod expert_use;
mod experts;
mod flags;
mod forecast;
mod gpus;
mod hardware;
mod hardware_page;
mod kept;
mod malformed;
mod planning;
mod property;
mod schema;
mod why;
