//! How a command ends when it fails: one message on stderr, one exit code.
//!
//! Owns the exit codes. Must never decide how to go on.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use engine::EngineError;
use gguf::GgufError;
#[cfg(feature = "cuda")]
use kernels::cuda::CudaError;
use kernels::memory::ReadError;
use plan::hardware::{BuildError, NoAdvice};
use plan::report::UnknownTensor;
use plan::{Bytes, ExpertUseError, ProfileError, Refusal};
use probe::ProbeError;
use tiers::TierError;

use crate::fetch::FetchError;
use crate::sums::SumsError;
use crate::text::TextError;

/// Exit codes that scripts may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything else.
    Failure = 1,
    /// Flags or the profile are wrong.
    Usage = 2,
    /// The model's file is wrong, or of a kind that is not supported.
    Model = 3,
    /// It does not fit.
    Resources = 4,
    /// A file, the drive or the network failed.
    Io = 5,
    /// Ctrl-C or SIGTERM.
    Interrupted = 130,
}

/// Flags or their values do not go together, or not with this model.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// `--strict`, and the plan is not what was asked.
#[derive(Debug, thiserror::Error)]
#[error(
    "--strict, and the plan differs from what was asked:\n  {0}\n\nhint: ask for what the plan can give, or leave out --strict"
)]
pub struct Strict(pub String);

/// A file that holds no tensor: enough to tokenize with, not to plan or run.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} holds a vocabulary and no weights\n\nhint: `plimsoll tokenize` and `plimsoll inspect` read it; give the model's file to run it"
)]
pub struct NoWeights(pub String);

/// A model whose bytes are not those that its checksums were made of. Which ones has been printed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{damaged} of {parts} parts differ from their checksums\n\nhint: copy or download the file again; a drive or memory that flips bits \
     does so again (smartctl, memtest)"
)]
pub struct Damaged {
    /// Parts that differ.
    pub damaged: usize,
    /// All parts.
    pub parts: usize,
}

/// A drive that is too full for a copy.
#[derive(Debug, thiserror::Error)]
#[error("the copy needs {need}, {folder} has {free} free\n\nhint: free some space, or name a folder on another drive", folder = folder.display())]
pub struct NoRoom {
    /// Bytes to be written.
    pub need: Bytes,
    /// Bytes free.
    pub free: Bytes,
    /// Where.
    pub folder: PathBuf,
}

/// The user stopped it. What was made so far has been printed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// `doctor` found something, which it has printed: its exit code is 1 where that only warns.
#[derive(Debug, thiserror::Error)]
#[error("not everything is well")]
pub struct Unwell {
    /// Whether something that is there cannot be used.
    pub fails: bool,
}

/// Whoever read standard output has gone: there is nothing left to do, and nothing to complain about.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub struct ReaderGone;

/// The exit code of an error: the innermost cause that has one decides.
#[must_use]
pub fn exit(error: &anyhow::Error) -> Exit {
    error.chain().filter_map(classify).last().unwrap_or(Exit::Failure)
}

fn classify(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(error) = cause.downcast_ref::<GgufError>() {
        return Some(gguf(error));
    }
    if let Some(refusal) = cause.downcast_ref::<Refusal>() {
        return Some(match refusal {
            Refusal::Profile(_) | Refusal::Experts(_) => Exit::Usage,
            Refusal::DoesNotFit(_) => Exit::Resources,
        });
    }
    if let Some(error) = cause.downcast_ref::<EngineError>() {
        return engine(error);
    }
    if let Some(error) = cause.downcast_ref::<TextError>() {
        return Some(text(error));
    }
    if let Some(error) = cause.downcast_ref::<ProbeError>() {
        return Some(if matches!(error, ProbeError::Memory(_) | ProbeError::Threads(_)) {
            Exit::Resources
        } else {
            Exit::Io
        });
    }
    if cause.is::<ProfileError>()
        || cause.is::<ExpertUseError>()
        || cause.is::<UnknownTensor>()
        || cause.is::<BuildError>()
        || cause.is::<Usage>()
    {
        return Some(Exit::Usage);
    }
    if let Some(Unwell { fails }) = cause.downcast_ref() {
        // The codes of `doctor` are its own: 1 and 2.
        return Some(if *fails { Exit::Usage } else { Exit::Failure });
    }
    if let Some(error) = cause.downcast_ref::<NoAdvice>() {
        return Some(if matches!(error, NoAdvice::NotARate(_)) { Exit::Usage } else { Exit::Resources });
    }
    if cause.is::<NoWeights>() || cause.is::<Damaged>() || cause.is::<SumsError>() {
        return Some(Exit::Model);
    }
    if cause.is::<ReadError>() {
        return Some(Exit::Io);
    }
    if cause.is::<Strict>() || cause.is::<NoRoom>() {
        return Some(Exit::Resources);
    }
    if let Some(error) = cause.downcast_ref::<FetchError>() {
        return Some(match error {
            FetchError::Name(_) | FetchError::NoSuchQuant { .. } | FetchError::NotBuilt(_) => Exit::Usage,
            FetchError::NoGguf { .. } | FetchError::NotWhole { .. } => Exit::Model,
            FetchError::NoSpace { .. } => Exit::Resources,
            _ => Exit::Io,
        });
    }
    if cause.is::<Interrupted>() {
        return Some(Exit::Interrupted);
    }
    cause.is::<std::io::Error>().then_some(Exit::Io)
}

fn gguf(error: &GgufError) -> Exit {
    match error {
        GgufError::Io { .. } | GgufError::NotAFile { .. } => Exit::Io,
        GgufError::InFile { cause, .. } => gguf(cause),
        _ => Exit::Model,
    }
}

fn engine(error: &EngineError) -> Option<Exit> {
    Some(match error {
        EngineError::Metadata(error) => gguf(error),
        EngineError::UnknownArchitecture { .. }
        | EngineError::UnsupportedTypes { .. }
        | EngineError::Tensors { .. }
        | EngineError::NotFinite { .. } => Exit::Model,
        EngineError::Tier(TierError::Read { .. }) => Exit::Io,
        EngineError::Tier(TierError::NoGpu { .. })
        | EngineError::NotOnGpu { .. }
        | EngineError::EmptyPrompt
        | EngineError::NoSuchToken { .. } => Exit::Usage,
        #[cfg(feature = "cuda")]
        EngineError::Gpu(error) | EngineError::Tier(TierError::Gpu(error)) => return gpu(error),
        EngineError::Tier(TierError::Memory { .. })
        | EngineError::Memory { .. }
        | EngineError::Threads { .. }
        | EngineError::ContextFull { .. } => Exit::Resources,
        EngineError::Interrupted => Exit::Interrupted,
        // Defects: a plain failure.
        _ => return None,
    })
}

#[cfg(feature = "cuda")]
fn gpu(error: &CudaError) -> Option<Exit> {
    match error {
        // Defects: a plain failure.
        CudaError::Call { .. } | CudaError::NoKernel { .. } => None,
        _ => Some(Exit::Resources),
    }
}

fn text(error: &TextError) -> Exit {
    match error {
        TextError::Metadata(error) => gguf(error),
        // What the user wrote, not what the model holds.
        TextError::NoTokenForByte { .. } | TextError::TextTooLong { .. } | TextError::WordTooLong { .. } => Exit::Usage,
        TextError::Thread { .. } => Exit::Resources,
        _ => Exit::Model,
    }
}

/// Prints the error, unless its cause wants silence, and gives the code to end with.
#[must_use]
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_silent(error) {
        return ExitCode::SUCCESS;
    }
    if exit(error) != Exit::Interrupted && !error.is::<Unwell>() {
        // Nobody is left to tell where even stderr is closed.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("error: {}\n", message(error)).as_bytes());
    }
    ExitCode::from(exit(error) as u8)
}

/// Whether nobody is left who could be told.
#[must_use]
pub fn is_silent(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error>::is::<ReaderGone>)
}

/// The whole chain as one text: causes after colons, hints after a blank line at the end, nothing twice.
#[must_use]
pub fn message(error: &anyhow::Error) -> String {
    let (mut text, mut hints) = (String::new(), String::new());
    for cause in error.chain().map(ToString::to_string) {
        let (what, hint) = cause.split_once("\n\nhint: ").unwrap_or((&cause, ""));
        if !text.contains(what) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(what);
        }
        if !hint.is_empty() && !hints.contains(hint) {
            hints.push_str("\n\nhint: ");
            hints.push_str(hint);
        }
    }
    if hints.is_empty()
        && let Some(io) = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>())
    {
        hints = format!("\n\nhint: {}", way_out(io.kind()));
    }
    text + &hints
}

/// What helps against a failure of files that nobody nearer to it had a hint for.
const fn way_out(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "there is no such file or folder; a relative path counts from the current folder",
        ErrorKind::PermissionDenied => "this user may not do that there",
        ErrorKind::IsADirectory => "that is a folder; name a file",
        ErrorKind::NotADirectory => "a part of the path is a file and no folder",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on that drive, or name another one",
        ErrorKind::ReadOnlyFilesystem => "that drive is read-only; name another one",
        _ => "check the file and the drive that it lies on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let io = || std::io::Error::from(std::io::ErrorKind::NotFound);
        for (error, code) in [
            (anyhow!("anything"), Exit::Failure),
            (anyhow::Error::new(Usage("x".into())), Exit::Usage),
            (
                anyhow::Error::new(EngineError::UnknownArchitecture { name: "x".into(), known: "y".into() })
                    .context("loading"),
                Exit::Model,
            ),
            (anyhow::Error::new(GgufError::missing_key("a.b")), Exit::Model),
            (anyhow::Error::new(GgufError::Io { path: "x".into(), source: io() }), Exit::Io),
            (anyhow::Error::new(FetchError::Name("x".into())), Exit::Usage),
            (anyhow::Error::new(io()).context("reading x"), Exit::Io),
            (anyhow::Error::new(Interrupted), Exit::Interrupted),
            (anyhow::Error::new(EngineError::Interrupted), Exit::Interrupted),
            (anyhow::Error::new(Strict("x".into())), Exit::Resources),
            (anyhow::Error::new(NoWeights("x".into())), Exit::Model),
        ] {
            assert_eq!(exit(&error), code, "{error:?}");
        }
    }

    #[test]
    fn every_failure_of_files_has_a_way_out() {
        for (kind, hint) in [
            (ErrorKind::NotFound, "no such file or folder"),
            (ErrorKind::StorageFull, "make room"),
            (ErrorKind::Other, "check the file"),
        ] {
            let text = message(&anyhow::Error::new(std::io::Error::from(kind)).context("cannot write x"));
            assert!(text.starts_with("cannot write x: ") && text.contains("\n\nhint: "), "{text}");
            assert!(text.contains(hint), "{text}");
        }
    }

    #[test]
    fn a_message_tells_each_cause_once_and_ends_with_the_hint() {
        let inner = GgufError::missing_key("llama.block_count");
        let error = Err::<(), _>(inner).context("opening m.gguf").expect_err("an error");
        let text = message(&error);
        assert!(text.starts_with("opening m.gguf: metadata key llama.block_count is missing\n\nhint: "), "{text}");

        let source = std::io::Error::other("disk on fire");
        let error = anyhow::Error::new(GgufError::Io { path: "m.gguf".into(), source });
        let text = message(&error);
        assert!(text.starts_with("m.gguf: disk on fire\n\nhint: "), "{text}");
    }
}
