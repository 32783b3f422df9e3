//! Models from the Hugging Face hub: `hf:OWNER/REPO:QUANT` becomes a path on this machine.
//!
//! Owns names of models on the hub, and the hub's cache folder. Must never know what
//! a GGUF holds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use choice::choose;

mod choice;
#[cfg(feature = "fetch")]
mod hub;
#[cfg(feature = "fetch")]
mod ranges;
#[cfg(all(test, feature = "fetch"))]
mod tiny;

/// What can go wrong on the way to a model's file.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name is not one of a model on the hub.
    #[error("{0:?} names no model on the hub\n\nhint: write hf:OWNER/REPO:QUANT, such as hf:Qwen/Qwen3-0.6B-GGUF:Q8_0")]
    Name(String),
    /// The repository has no such quantization.
    #[error(
        "{repo} has no {quant} GGUF; it has {found}\n\nhint: name one of these after the repository, as in hf:{repo}:{first}"
    )]
    NoSuchQuant {
        /// The repository.
        repo: String,
        /// What was asked.
        quant: String,
        /// What there is.
        found: String,
        /// One of these.
        first: String,
    },
    /// The repository has no GGUF at all.
    #[error("{repo} has no GGUF file\n\nhint: look for a repository whose name ends in GGUF")]
    NoGguf {
        /// The repository.
        repo: String,
    },
    /// Files of a split set are missing in the repository.
    #[error(
        "{repo}: the set {set} is not whole: {have} of {want} files\n\nhint: its upload may not have ended; name another quantization, or try later"
    )]
    NotWhole {
        /// The repository.
        repo: String,
        /// Its first file.
        set: String,
        /// Files found.
        have: usize,
        /// Files that the names promise.
        want: usize,
    },
    /// The model is not in the local cache, and the network may not be used.
    #[error("{model} is not in {cache}, and --offline forbids the network\n\nhint: plimsoll pull {model}", cache = cache.display())]
    Offline {
        /// The model.
        model: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// This build cannot use the network.
    #[error("this build cannot fetch {0} (feature `fetch` is off)\n\nhint: download the file and give its path to -m")]
    NotBuilt(String),
    /// No folder to keep models in.
    #[error("no folder to keep models in: neither HF_HOME nor HOME is set")]
    NoCache,
    /// The drive is too full.
    #[error("{model} needs {need} more, {folder} has {free} free\n\nhint: free some space, or set HF_HOME to a folder on another drive", folder = folder.display())]
    NoSpace {
        /// The model.
        model: String,
        /// Bytes still to come.
        need: plan::Bytes,
        /// Bytes free.
        free: plan::Bytes,
        /// Where.
        folder: PathBuf,
    },
    /// The hub said something that must not be trusted, or the file came short.
    #[error("{what} from {url}\n\nhint: try again; if it stays, HF_ENDPOINT names no hub")]
    Answer {
        /// What was wrong.
        what: String,
        /// Who said it.
        url: String,
    },
    /// The network or the drive failed.
    #[error(
        "cannot fetch {what}: {why}\n\nhint: look at the network, and at HF_ENDPOINT where it is set; what has come is kept, and the same command goes on from there"
    )]
    Transfer {
        /// What was fetched.
        what: String,
        /// What the client said.
        why: String,
    },
}

/// A model on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `OWNER/REPO`.
    pub repo: String,
    /// The quantization asked for; none means [`DEFAULT_QUANT`] or whatever the only one is.
    pub quant: Option<String>,
}

/// What is taken where no quantization is named.
pub const DEFAULT_QUANT: &str = "Q4_K_M";

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}:{}", self.repo, self.quant.as_deref().unwrap_or(DEFAULT_QUANT))
    }
}

impl FromStr for HubName {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, FetchError> {
        let fail = || FetchError::Name(text.to_owned());
        let rest = text.strip_prefix("hf:").ok_or_else(fail)?;
        let (repo, quant) = match rest.split_once(':') {
            Some((repo, quant)) => (repo, Some(quant.to_owned())),
            None => (rest, None),
        };
        // These become parts of paths and addresses, so only what the hub itself allows.
        let plain = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
        };
        let (owner, name) = repo.split_once('/').ok_or_else(fail)?;
        let good = plain(owner) && plain(name) && quant.as_deref().is_none_or(plain);
        if good { Ok(Self { repo: repo.to_owned(), quant }) } else { Err(fail()) }
    }
}

/// Whether `model` names the hub rather than a file, if only in a way that is none: an address, or a prefix in capitals.
#[must_use]
pub fn is_hub_name(model: &str) -> bool {
    let is = |scheme: &str| model.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    ["hf:", "http://", "https://"].into_iter().any(is)
}

/// The path of the model's first file: from the local cache if it is whole there, else from the hub.
///
/// # Errors
/// [`FetchError`] where the name, the repository, the network or the drive does not allow it.
pub fn resolve(model: &str, offline: bool) -> Result<PathBuf, FetchError> {
    let name: HubName = model.parse()?;
    let cache = cache_folder()?;
    match cached(&name, &cache) {
        Some(path) => Ok(path),
        None if offline => Err(FetchError::Offline { model: name.to_string(), cache }),
        None => download(&name, &cache),
    }
}

/// Brings the cache up to date with the hub and returns the path of the model's first file. With `offline`, only looks.
///
/// # Errors
/// As [`resolve`].
pub fn pull(model: &str, offline: bool) -> Result<PathBuf, FetchError> {
    if offline {
        return resolve(model, true);
    }
    download(&model.parse()?, &cache_folder()?)
}

/// The header of a model on the hub, without its weights: from the local cache if it is whole there, else by ranges of bytes, a few MiB for
/// the largest models.
///
/// # Errors
/// As [`resolve`], and where the header is wrong.
pub(crate) fn header(model: &str, offline: bool) -> anyhow::Result<gguf::Model> {
    let name: HubName = model.parse()?;
    let cache = cache_folder()?;
    match cached(&name, &cache) {
        Some(path) => Ok(gguf::open(&path)?),
        None if offline => Err(FetchError::Offline { model: name.to_string(), cache }.into()),
        None => remote_header(&name, &cache),
    }
}

/// Where a model's file lies, or will lie: the hub's cache, or what there is of its path, holds those of the hub.
pub(crate) fn home(file: &str) -> PathBuf {
    let cache = if is_hub_name(file) { cache_folder().ok() } else { None };
    let there = |cache: PathBuf| cache.ancestors().find(|folder| folder.exists()).map(Path::to_owned);
    cache.and_then(there).unwrap_or_else(|| PathBuf::from(file))
}

#[cfg(feature = "fetch")]
fn remote_header(name: &HubName, cache: &Path) -> anyhow::Result<gguf::Model> {
    ranges::header(hub::Hub::from_environment(cache)?.look(name)?)
}

#[cfg(not(feature = "fetch"))]
fn remote_header(name: &HubName, _cache: &Path) -> anyhow::Result<gguf::Model> {
    Err(FetchError::NotBuilt(name.to_string()).into())
}

#[cfg(feature = "fetch")]
fn download(name: &HubName, cache: &Path) -> Result<PathBuf, FetchError> {
    hub::Hub::from_environment(cache)?.pull(name)
}

#[cfg(not(feature = "fetch"))]
fn download(name: &HubName, _cache: &Path) -> Result<PathBuf, FetchError> {
    Err(FetchError::NotBuilt(name.to_string()))
}

/// The hub's cache: `HF_HUB_CACHE`, `HF_HOME/hub` or `~/.cache/huggingface/hub`, as Python's hub client has it.
fn cache_folder() -> Result<PathBuf, FetchError> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/huggingface/hub")))
        .ok_or(FetchError::NoCache)
}

/// The first file of the model in the local cache, if the whole set is there.
fn cached(name: &HubName, cache: &Path) -> Option<PathBuf> {
    let folder = cache.join(format!("models--{}", name.repo.replace('/', "--")));
    let commit = std::fs::read_to_string(folder.join("refs/main")).ok()?;
    let snapshot = folder.join("snapshots").join(commit.trim());
    let mut files = Vec::new();
    list(&snapshot, "", &mut files);
    let set = choose(name, &files).ok()?;
    Some(snapshot.join(set.first()?))
}

/// Folders within folders that are looked into; repositories have one or two.
const FOLDERS_DEEP: usize = 4;

/// Files below `folder` whose bytes are there.
fn list(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(file) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if path.is_file() {
            files.push(format!("{prefix}{file}"));
        } else if prefix.matches('/').count() < FOLDERS_DEEP && path.is_dir() {
            list(&path, &format!("{prefix}{file}/"), files);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_strictly() {
        let name: HubName = "hf:a-b/c.d_GGUF:Q4_K_M".parse().expect("a name");
        assert_eq!(name, HubName { repo: "a-b/c.d_GGUF".into(), quant: Some("Q4_K_M".into()) });
        assert_eq!("hf:a/b".parse::<HubName>().expect("a name").quant, None);
        for bad in
            ["a/b", "hf:", "hf:a", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b:", "hf:a/b:../x", "hf:a b/c", "hf:a/b:c:d"]
        {
            assert!(bad.parse::<HubName>().is_err(), "{bad}");
        }
        for close in ["HF:a/b", "https://hub/a/b", "HTTP://hub/a/b"] {
            let error = resolve(close, true).expect_err("no name").to_string();
            assert!(is_hub_name(close) && error.contains("\n\nhint: write hf:OWNER/REPO:QUANT"), "{error}");
        }
        assert!(!is_hub_name("hf") && !is_hub_name("models/hf:a"));
    }

    #[test]
    fn a_whole_set_in_the_cache_is_found_without_network() {
        let cache = tempfile::tempdir().expect("a folder");
        let name: HubName = "hf:o/r:Q4_0".parse().expect("a name");
        assert_eq!(cached(&name, cache.path()), None);
        let folder = cache.path().join("models--o--r");
        std::fs::create_dir_all(folder.join("refs")).expect("a folder");
        let sub = folder.join("snapshots/abc/sub/within");
        std::fs::create_dir_all(&sub).expect("a folder");
        std::fs::write(folder.join("refs/main"), "abc\n").expect("a file");
        std::fs::write(sub.join("m-Q4_0-00001-of-00002.gguf"), "").expect("a file");
        assert_eq!(cached(&name, cache.path()), None, "half a set");
        std::fs::write(sub.join("m-Q4_0-00002-of-00002.gguf"), "").expect("a file");
        let first = sub.join("m-Q4_0-00001-of-00002.gguf");
        assert_eq!(cached(&name, cache.path()), Some(first));
    }
}
