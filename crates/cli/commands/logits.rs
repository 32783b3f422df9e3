//! `plimsoll logits`: the logits of every position, for comparison with other engines.

use std::io::Write;

use anyhow::Context;
use plan::{KvType, Logits};

use crate::args::LogitsArgs;
use crate::failure::Usage;
use crate::open::{self, Running};
use crate::output::{Output, npy_header};
use crate::show::Progress;

pub(super) fn run(args: &LogitsArgs) -> anyhow::Result<()> {
    let tokens = super::read_json::<Vec<u32>>(&args.tokens, "an array of token ids, such as [1, 2, 3]")?;
    if tokens.is_empty() {
        return Err(Usage(format!("{} holds no token", args.tokens.display())).into());
    }
    let mut placement = args.placement.clone();
    placement.ctx_size = placement.ctx_size.or(Some(tokens.len() as u32));
    placement.logits = Logits::Every;
    placement.cache_type_k = placement.cache_type_k.or(Some(KvType::F32));
    placement.cache_type_v = placement.cache_type_v.or(Some(KvType::F32));
    let (ready, _) = open::ready(&args.model, &placement, None)?;
    ready.check_room(tokens.len())?;
    let Running { mut engine, signals, .. } = ready.start()?;
    let mut session = engine.session()?;
    let mut output = Output::create(&args.output)?;
    let vocabulary = engine.vocabulary();
    let _gentle = signals.gently();
    let mut written = output.write_all(&npy_header(tokens.len(), vocabulary));
    let bar = Progress::steps("logits", tokens.len() as u64);
    let mut row = Vec::with_capacity(vocabulary * size_of::<f32>());
    engine.every_logit(&mut session, &tokens, &mut |_, logits| {
        row.clear();
        row.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        if written.is_ok() {
            written = output.write_all(&row);
        }
        bar.step();
    })?;
    written.with_context(|| format!("cannot write {}", args.output.display()))?;
    output.finish()
}
