//! What a run writes about the use of experts, and what reads it again: their counts, and the sequence of choices where that is asked for.
//!
//! Owns the file that `run --expert-stats` makes, whole or not at all. Must never know how a router chooses, nor what the counts
//! are used for.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use engine::{Choice, Engine};
use plan::{Bytes, ExpertUse, ExpertUseWriter, Inventory};

use crate::failure::Usage;
use crate::input;
use crate::output::Output;

/// What is read of expert statistics: a trace of a hundred thousand tokens through the largest models is shorter.
const EXPERT_STATS_MAX: Bytes = Bytes(1 << 30);

/// Reads and checks expert statistics.
pub(crate) fn read(path: &Path) -> anyhow::Result<ExpertUse> {
    let text = input::read_text(path, EXPERT_STATS_MAX, "the expert statistics")?;
    Ok(ExpertUse::parse(&text, &path.to_string_lossy())?)
}

/// A file that waits for the counts of a run. Dropping it leaves what was there before.
pub(crate) struct ExpertStats {
    output: Output,
    traces: bool,
}

/// The same, while the model runs.
pub(crate) struct Recording {
    /// Where there is no trace, nothing is written before the end.
    trace: Option<Arc<Mutex<Trace>>>,
    output: Option<Output>,
}

/// A trace as it grows: each choice is written at once, so that memory stays as it was planned.
struct Trace {
    output: Output,
    writer: ExpertUseWriter,
    /// The first write that failed; nothing is written after it.
    failed: Option<io::Error>,
}

impl ExpertStats {
    /// Makes room for the file, before anything is loaded.
    ///
    /// # Errors
    /// [`Usage`] where the model has no experts; an I/O error where no file can be made there.
    pub(crate) fn create(path: &Path, traces: bool, inventory: &Inventory) -> anyhow::Result<Self> {
        if ExpertUse::new(inventory).layers().next().is_none() {
            let text = format!("--expert-stats: {} has no routed experts to count", inventory.name);
            return Err(Usage(format!("{text}\n\nhint: leave it out; it is for mixtures of experts")).into());
        }
        Ok(Self { output: Output::create(path)?, traces })
    }

    /// Follows the engine's routers from now on.
    pub(crate) fn follow(self, engine: &mut Engine) -> Recording {
        if !self.traces {
            return Recording { trace: None, output: Some(self.output) };
        }
        let mut trace = Trace { output: self.output, writer: ExpertUseWriter::default(), failed: None };
        let head = trace.writer.head(engine.expert_use());
        trace.write(&head);
        let trace = Arc::new(Mutex::new(trace));
        let listener = Arc::clone(&trace);
        engine.trace_experts(Some(Box::new(move |choice: &Choice<'_>| {
            listener.lock().unwrap_or_else(PoisonError::into_inner).add(choice);
        })));
        Recording { trace: Some(trace), output: None }
    }
}

impl Recording {
    /// Writes the counts and moves the file to its place.
    ///
    /// # Errors
    /// Where anything could not be written; the file that was there before stays then.
    pub(crate) fn finish(self, engine: &mut Engine) -> anyhow::Result<()> {
        // The listener holds the trace too: it goes first.
        engine.trace_experts(None);
        let mut output = match (self.trace.and_then(Arc::into_inner), self.output) {
            (Some(trace), _) => trace.into_inner().unwrap_or_else(PoisonError::into_inner).end(engine.expert_use())?,
            (None, Some(mut output)) => {
                output.write_all(engine.expert_use().to_json().as_bytes()).context(CANNOT_WRITE)?;
                output
            }
            (None, None) => return Ok(()),
        };
        output.flush().context(CANNOT_WRITE)?;
        output.finish()
    }
}

const CANNOT_WRITE: &str = "cannot write the expert statistics";

impl Trace {
    fn add(&mut self, choice: &Choice<'_>) {
        let (position, layer) = (choice.first_position as u32, choice.layer as u32);
        let line = self.writer.line(position, layer, choice.experts.chunks(choice.used.max(1)));
        self.write(&line);
    }

    fn write(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = self.output.write_all(text.as_bytes()).err();
        }
    }

    fn end(mut self, counts: &ExpertUse) -> anyhow::Result<Output> {
        let tail = std::mem::take(&mut self.writer).tail(counts);
        self.write(&tail);
        match self.failed {
            None => Ok(self.output),
            Some(error) => Err(anyhow::Error::new(error).context(CANNOT_WRITE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::failure::{Exit, exit, message};

    fn inventory(name: &str) -> Inventory {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        gguf::open(&folder.join("model-bf16.gguf")).expect("a model").inventory
    }

    #[test]
    fn a_dense_model_has_nothing_to_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("use.json");
        let error = ExpertStats::create(&path, false, &inventory("phi3")).err().expect("a refusal");
        assert_eq!(exit(&error), Exit::Usage);
        assert!(message(&error).contains("no routed experts to count\n\nhint: "), "{error}");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_trace_is_written_as_it_comes_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("use.json");
        fs::write(&path, "old").expect("written");
        let inventory = inventory("qwen2_moe");
        let stats = ExpertStats::create(&path, true, &inventory).expect("a file");
        let mut counts = ExpertUse::new(&inventory);
        let layer = counts.layers().next().expect("a layer").0;
        let used = counts.experts_used();
        let mut trace = Trace { output: stats.output, writer: ExpertUseWriter::default(), failed: None };
        trace.write(&trace.writer.head(&counts));
        for position in 0..3 {
            let experts: Vec<u32> = (0..2 * used).map(|choice| choice % used).collect();
            trace.add(&Choice {
                first_position: 2 * position,
                layer: layer as usize,
                used: used as usize,
                experts: &experts,
            });
            counts.add(layer, &experts);
            counts.add_tokens(2);
        }
        assert_eq!(fs::read_to_string(&path).expect("a file"), "old", "nothing half-written is seen");
        trace.end(&counts).and_then(Output::finish).expect("written");
        let read = ExpertUse::parse(&fs::read_to_string(&path).expect("a file"), "use.json").expect("statistics");
        assert_eq!((read.tokens(), read.passes_traced()), (6, 3));
        assert!(read.layers().eq(counts.layers()));
    }
}
