//! The hub itself, over the network, by the `hf-hub` crate.

use std::path::{Component, Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};
use plan::Bytes;

use super::choice::choose;
use super::ranges::RangedFile;
use super::{FetchError, HubName};
use crate::show;

/// A hub and the local cache of its files.
pub(super) struct Hub {
    api: Api,
    cache: PathBuf,
    token: Option<String>,
}

/// One file to come.
struct Part {
    path: String,
    bytes: u64,
    /// Where it will be found.
    landed: PathBuf,
}

impl Hub {
    /// The hub that `HF_ENDPOINT` names, else Hugging Face's; with `HF_TOKEN`, else the token of the hub's own client.
    pub(super) fn from_environment(cache: &Path) -> Result<Self, FetchError> {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::new(text("HF_ENDPOINT").as_deref(), text("HF_TOKEN"), cache)
    }

    pub(super) fn new(endpoint: Option<&str>, token: Option<String>, cache: &Path) -> Result<Self, FetchError> {
        let local = Cache::new(cache.to_owned());
        let token = token.or_else(|| local.token());
        let mut builder = ApiBuilder::from_cache(local).with_progress(false).with_retries(3);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        if token.is_some() {
            builder = builder.with_token(token.clone());
        }
        let api = builder.build().map_err(|error| transfer("the hub", &error))?;
        Ok(Self { api, cache: cache.to_owned(), token })
    }

    /// Fetches every file of the model that is not here yet and returns the path of the first.
    pub(super) fn pull(&self, name: &HubName) -> Result<PathBuf, FetchError> {
        let repo = self.api.repo(Repo::model(name.repo.clone()));
        let info = repo.info().map_err(|error| transfer(&name.repo, &error))?;
        let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        let parts =
            choose(name, &files)?.into_iter().map(|path| self.ask(name, &repo, path)).collect::<Result<Vec<_>, _>>()?;
        let missing: Vec<&Part> = parts.iter().filter(|part| !part.is_here()).collect();
        self.check_space(name, &missing)?;
        for part in missing {
            let bar = show::Progress::bytes(&part.path, Bytes(part.bytes));
            let path = repo
                .download_with_progress(&part.path, Download { bar })
                .map_err(|error| transfer(&format!("{} of {}", part.path, name.repo), &error))?;
            let came = path.metadata().map_or(0, |meta| meta.len());
            if came != part.bytes {
                let what = format!("{came} of {} bytes", part.bytes);
                return Err(FetchError::Answer { what, url: repo.url(&part.path) });
            }
        }
        let first = parts.into_iter().next().ok_or_else(|| FetchError::NoGguf { repo: name.repo.clone() })?;
        Ok(first.landed)
    }

    /// The model's files with their lengths and addresses, in the order of the split: nothing is fetched.
    pub(super) fn look(&self, name: &HubName) -> Result<Vec<RangedFile>, FetchError> {
        let repo = self.api.repo(Repo::model(name.repo.clone()));
        let info = repo.info().map_err(|error| transfer(&name.repo, &error))?;
        let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        let look = |path: String| {
            let part = self.ask(name, &repo, path)?;
            let path = Path::new(&format!("hf:{}", name.repo)).join(&part.path);
            Ok(RangedFile { path, bytes: Bytes(part.bytes), url: repo.url(&part.path), token: self.token.clone() })
        };
        choose(name, &files)?.into_iter().map(look).collect()
    }

    /// Asks the hub about one file. Names that come from the network become paths here, so they are checked.
    fn ask(&self, name: &HubName, repo: &ApiRepo, path: String) -> Result<Part, FetchError> {
        let url = repo.url(&path);
        let known = self.api.metadata(&url).map_err(|error| transfer(&path, &error))?;
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let inside = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || !plain(known.etag()) || !plain(known.commit_hash()) {
            return Err(FetchError::Answer { what: format!("unusable name or tag for {path:?}"), url });
        }
        let cached = Cache::new(self.cache.clone()).repo(Repo::model(name.repo.clone()));
        let landed = cached.pointer_path(known.commit_hash()).join(&path);
        Ok(Part { path, bytes: known.size() as u64, landed })
    }

    /// Refuses a download that the drive cannot hold. Bytes of an interrupted one are counted again: they are few.
    fn check_space(&self, name: &HubName, missing: &[&Part]) -> Result<(), FetchError> {
        let need: Bytes = missing.iter().map(|part| Bytes(part.bytes)).sum();
        let folder = self.cache.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned();
        // A file system that cannot say how full it is will say so when it is written to.
        let Ok(system) = rustix::fs::statvfs(&folder) else { return Ok(()) };
        let free = Bytes(system.f_bavail.saturating_mul(system.f_frsize));
        if need > free { Err(FetchError::NoSpace { model: name.to_string(), need, free, folder }) } else { Ok(()) }
    }
}

impl Part {
    fn is_here(&self) -> bool {
        self.landed.metadata().is_ok_and(|meta| meta.len() == self.bytes)
    }
}

/// Shows a download as one bar.
struct Download {
    bar: show::Progress,
}

impl hf_hub::api::Progress for Download {
    fn init(&mut self, size: usize, _filename: &str) {
        // Called again after each retry, followed by an update with all bytes that are here.
        self.bar.at(Bytes::ZERO, Bytes(size as u64));
    }

    fn update(&mut self, size: usize) {
        self.bar.add(Bytes(size as u64));
    }

    fn finish(&mut self) {}
}

fn transfer(what: &str, error: &ApiError) -> FetchError {
    let mut why = error.to_string();
    if why.contains("401") || why.contains("403") {
        why.push_str(" (no such repository, or one that wants a token in HF_TOKEN)");
    }
    FetchError::Transfer { what: what.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::super::tiny::{TinyHub, parts_of_a_set};
    use super::*;

    const FILE: &[u8] = b"GGUF, or nearly";

    fn hub_of_one(etag: &'static str) -> TinyHub {
        TinyHub::new(vec![("m-Q4_0.gguf".to_owned(), FILE.to_vec())], etag)
    }

    #[test]
    fn a_model_is_fetched_once_and_resumed_where_it_stopped() {
        let tiny = hub_of_one("abc123");
        let cache = tempfile::tempdir().expect("a folder");
        let hub = Hub::new(Some(&tiny.address), None, cache.path()).expect("a hub");
        let blobs = cache.path().join("models--o--r/blobs");
        std::fs::create_dir_all(&blobs).expect("a folder");
        std::fs::write(blobs.join("abc123.part"), &FILE[..4]).expect("a part");

        let name = "hf:o/r".parse().expect("a name");
        let path = hub.pull(&name).expect("a model");
        assert_eq!(std::fs::read(&path).expect("a file"), FILE);
        assert_eq!(tiny.asked().last().map(String::as_str), Some("4-"), "goes on where it stopped");

        let before = tiny.asked().len();
        assert_eq!(hub.pull(&name).expect("a model"), path);
        assert_eq!(tiny.asked()[before..], ["0-0"], "only its size is asked again");
        assert_eq!(super::super::cached(&name, cache.path()), Some(path));
    }

    #[test]
    fn every_part_of_a_set_is_fetched() {
        let tiny = TinyHub::new(parts_of_a_set("UD-Q4_0/m-UD-Q4_0", 3), "abc123");
        let cache = tempfile::tempdir().expect("a folder");
        let hub = Hub::new(Some(&tiny.address), None, cache.path()).expect("a hub");
        let name = "hf:o/r:Q4_0".parse().expect("a name");
        let path = hub.pull(&name).expect("a model");
        assert!(path.ends_with("UD-Q4_0/m-UD-Q4_0-00001-of-00003.gguf"), "{}", path.display());
        assert_eq!(gguf::open(&path).expect("a model").inventory.files.len(), 3);
        assert_eq!(super::super::cached(&name, cache.path()).as_ref(), Some(&path));
        // What is missing of a set is fetched again, and nothing else.
        let last = path.with_file_name("m-UD-Q4_0-00003-of-00003.gguf");
        std::fs::remove_file(&last).expect("a file");
        assert_eq!(super::super::cached(&name, cache.path()), None);
        assert_eq!(hub.pull(&name).expect("a model"), path);
        assert!(last.exists());
    }

    #[test]
    fn a_tag_that_leaves_the_cache_is_refused() {
        let tiny = hub_of_one("../../escape");
        let cache = tempfile::tempdir().expect("a folder");
        let hub = Hub::new(Some(&tiny.address), None, cache.path()).expect("a hub");
        let error = hub.pull(&"hf:o/r".parse().expect("a name")).expect_err("a bad tag");
        assert!(matches!(error, FetchError::Answer { .. }), "{error}");
    }

    #[test]
    fn a_repository_that_is_not_there_is_named() {
        let tiny = hub_of_one("abc");
        let cache = tempfile::tempdir().expect("a folder");
        let hub = Hub::new(Some(&tiny.address), None, cache.path()).expect("a hub");
        let error = hub.pull(&"hf:o/other".parse().expect("a name")).expect_err("no repository");
        assert!(error.to_string().contains("o/other") && error.to_string().contains("404"), "{error}");
    }
}
