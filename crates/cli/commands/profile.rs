//! `plimsoll profile`: checks placement profiles, prints their schema.

use crate::args::{ProfileCheckArgs, ProfileCommand};
use crate::{open, show};

pub(super) fn run(command: &ProfileCommand) -> anyhow::Result<()> {
    match command {
        ProfileCommand::Check(args) => check(args),
        ProfileCommand::Schema => show::json(&plan::profile::schema()),
    }
}

/// Checks each profile; with a model, also that it can be planned with it on this machine.
fn check(args: &ProfileCheckArgs) -> anyhow::Result<()> {
    let model = args.model.as_deref().map(gguf::open).transpose()?;
    for path in &args.profiles {
        let profile = open::read_profile(path)?;
        let verdict = match &model {
            None => "well formed".to_owned(),
            Some(model) => {
                let plan = plan::plan(&profile, &model.inventory, &open::machine(model))?;
                format!("fits {}: {:.2} tok/s forecast", model.inventory.name, plan.forecast.decode_tokens_per_s)
            }
        };
        show::product(&format!("{}: {verdict}\n", path.display()))?;
    }
    Ok(())
}
