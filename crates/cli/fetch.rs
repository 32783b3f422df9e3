//! Models from the Hugging Face hub: `hf:OWNER/REPO:QUANT` becomes a path on this machine.
//!
//! Owns names of models on the hub, the choice of files in a repository, and the hub's cache folder. Must never know what
//! a GGUF holds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

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

/// Whether `model` names the hub rather than a file.
#[must_use]
pub fn is_hub_name(model: &str) -> bool {
    model.starts_with("hf:")
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

/// The files of the model among those of its repository, in the order of the split.
///
/// A quantization matches where it stands in the path as a word (`Q4_K` is no word in `Q4_K_M`); of several sets
/// that match, the one with the shortest name is meant (`Q4_K_M` before `UD-Q4_K_M`).
fn choose(name: &HubName, files: &[String]) -> Result<Vec<String>, FetchError> {
    let sets = sets(files);
    let wanted = name.quant.as_deref().unwrap_or(DEFAULT_QUANT);
    let matching = sets.iter().filter(|set| has_word(&set.name, wanted)).min_by_key(|set| (set.name.len(), &set.name));
    let only = || if name.quant.is_none() && sets.len() == 1 { sets.first() } else { None };
    let Some(set) = matching.or_else(only) else {
        let mut quants: Vec<&str> = sets.iter().map(|set| quant_of(&set.name)).collect();
        quants.sort_unstable();
        quants.dedup();
        let Some(first) = quants.first() else { return Err(FetchError::NoGguf { repo: name.repo.clone() }) };
        return Err(FetchError::NoSuchQuant {
            repo: name.repo.clone(),
            quant: wanted.to_owned(),
            found: quants.join(", "),
            first: (*first).to_owned(),
        });
    };
    if set.files.len() == set.count {
        Ok(set.files.clone())
    } else {
        let (have, want) = (set.files.len(), set.count);
        Err(FetchError::NotWhole { repo: name.repo.clone(), set: set.files[0].clone(), have, want })
    }
}

/// One model in a repository: a file, or a split set.
struct FileSet {
    /// The path without split numbers and ending.
    name: String,
    files: Vec<String>,
    count: usize,
}

fn sets(files: &[String]) -> Vec<FileSet> {
    let mut sets: Vec<FileSet> = Vec::new();
    let mut sorted: Vec<_> = files.iter().filter(|path| is_language_model(path)).collect();
    sorted.sort();
    for path in sorted {
        let stem = &path[..path.len() - ".gguf".len()];
        let (name, count) = split_numbers(stem).unwrap_or((stem, 1));
        match sets.iter_mut().find(|set| set.name == name && set.count == count) {
            Some(set) => set.files.push(path.clone()),
            None => sets.push(FileSet { name: name.to_owned(), files: vec![path.clone()], count }),
        }
    }
    sets
}

/// GGUF files that are no vision projector and no importance matrix.
fn is_language_model(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    file.rsplit_once('.').is_some_and(|(_, ending)| ending == "gguf")
        && !file.contains("mmproj")
        && !file.contains("imatrix")
}

/// `NAME-00002-of-00009` as (`NAME`, 9). A number beyond its count is a name like any other, so that as many files as the count are all of them.
fn split_numbers(stem: &str) -> Option<(&str, usize)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(count) || !digits(number) {
        return None;
    }
    let (number, count): (usize, usize) = (number.parse().ok()?, count.parse().ok()?);
    (1..=count).contains(&number).then_some((name, count))
}

fn has_word(path: &str, word: &str) -> bool {
    let (path, word) = (path.to_ascii_lowercase(), word.to_ascii_lowercase());
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    path.match_indices(&word).any(|(at, _)| {
        !path[..at].chars().next_back().is_some_and(inside)
            && !path[at + word.len()..].chars().next().is_some_and(inside)
    })
}

/// The part of a path that looks like a quantization: the last word of the file's name, or of its folder's where only that does
/// (`Q4_K_M/model-00001-of-00002`).
fn quant_of(path: &str) -> &str {
    const KINDS: [&str; 7] = ["q", "iq", "tq", "f", "bf", "mxfp", "nvfp"];
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let [name, folder] = [name, folder].map(|part| part.rsplit(['-', '.', '/']).next().unwrap_or(part));
    let looks = |word: &str| {
        let letters = word.find(|c: char| c.is_ascii_digit()).map(|digit| &word[..digit]);
        letters.is_some_and(|letters| KINDS.iter().any(|kind| kind.eq_ignore_ascii_case(letters)))
    };
    if looks(folder) && !looks(name) { folder } else { name }
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
    }

    /// What `quant` chooses among `files`, or how it fails.
    fn check(quant: &str, files: &[&str], chosen: Result<&[&str], &str>) {
        let quant = (!quant.is_empty()).then(|| quant.to_owned());
        let name = HubName { repo: "o/r".into(), quant };
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        match (choose(&name, &files), chosen) {
            (Ok(found), Ok(chosen)) => assert_eq!(found, chosen, "{name}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{name}: {error}"),
            (found, _) => panic!("{name}: {found:?}"),
        }
    }

    #[test]
    fn a_quantization_chooses_its_files() {
        let repo = ["README.md", "m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m-q8_0.gguf", "mmproj-F16.gguf", "m-IQ1_S.gguf"];
        check("", &repo, Ok(&["m-Q4_K_M.gguf"]));
        check("UD-Q4_K_M", &repo, Ok(&["m-UD-Q4_K_M.gguf"]));
        check("Q8_0", &repo, Ok(&["m-q8_0.gguf"]));
        check("Q4_K", &repo, Err("it has IQ1_S, Q4_K_M, q8_0"));
        check("F16", &repo, Err("no F16 GGUF"));
        check("", &["only.gguf", "x.txt"], Ok(&["only.gguf"]));
        check("", &["x.txt"], Err("has no GGUF file"));
        let split =
            ["Q2_K/m-Q2_K-00002-of-00002.gguf", "Q2_K/m-Q2_K-00001-of-00002.gguf", "m-Q3_K-00001-of-00003.gguf"];
        check("Q2_K", &split, Ok(&["Q2_K/m-Q2_K-00001-of-00002.gguf", "Q2_K/m-Q2_K-00002-of-00002.gguf"]));
        check("Q3_K", &split, Err("1 of 3 files"));
        // Sets named by their folders alone, or by those and themselves; numbers that are none of a set do not fill it.
        let folders = [
            "UD-IQ1_S/R1-UD-IQ1_S-00002-of-00002.gguf",
            "UD-IQ1_S/R1-UD-IQ1_S-00001-of-00002.gguf",
            "Q8_0/model-00001-of-00002.gguf",
            "Q8_0/model-00002-of-00002.gguf",
            "gguf/R1/BF16/R1-00001-of-00001.gguf",
            "Q5_K/R1-00001-of-00002.gguf",
            "Q5_K/R1-00003-of-00002.gguf",
        ];
        check("UD-IQ1_S", &folders, Ok(&[folders[1], folders[0]]));
        check("IQ1_S", &folders, Ok(&[folders[1], folders[0]]));
        check("Q8_0", &folders, Ok(&folders[2..4]));
        check("BF16", &folders, Ok(&folders[4..5]));
        check("Q5_K", &folders, Err("1 of 2 files"));
        check("", &folders[..5], Err("it has BF16, IQ1_S, Q8_0\n"));
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
