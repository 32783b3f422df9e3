//! `plimsoll plan`: where every byte would live and what a token would cost, before anything is loaded.

use crate::args::PlanArgs;
use crate::open::{self, Planned};
use crate::{output, show};

pub(super) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let Planned { model, plan, .. } = open::planned(open::header(&args.model)?, &args.placement)?;
    let inventory = &model.inventory;
    if let Some(path) = &args.output {
        output::write_whole(path, &plan::profile::to_yaml(&plan, inventory))?;
        show::note(&format!("wrote {}", path.display()));
    }
    if args.json {
        return show::json(&plan);
    }
    if let Some(tensor) = &args.explain {
        return show::product(&plan::report::explain(&plan, inventory, tensor)?);
    }
    show::product(&plan::report::text(&plan, inventory))
}
