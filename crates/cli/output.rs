//! Files that commands write: whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

/// A file under a temporary name beside its place; [`Self::finish`] moves it there, dropping it removes it. Pipes and
/// devices are written as they are.
pub(crate) struct Output {
    file: BufWriter<File>,
    temporary: Option<PathBuf>,
    place: PathBuf,
}

impl Output {
    /// Makes room for the file. Through a link, it is the link's target that is written.
    ///
    /// # Errors
    /// Where no file can be made there, or where a folder or a model is.
    pub(crate) fn create(place: &Path) -> anyhow::Result<Self> {
        place.file_name().with_context(|| format!("{} names no file to write", place.display()))?;
        let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
        let cannot = || format!("cannot write {}", place.display());
        let old = fs::metadata(&place).ok();
        match &old {
            Some(there) if there.is_dir() => anyhow::bail!("{}: it is a folder\n\nhint: name a file in it", cannot()),
            Some(there) if !there.is_file() => {
                let file = File::options().write(true).open(&place).with_context(cannot)?;
                return Ok(Self { file: BufWriter::new(file), temporary: None, place });
            }
            Some(_) if is_model(&place) => anyhow::bail!("{}: it is a model\n\nhint: name another file", cannot()),
            _ => {}
        }
        let temporary = place.with_file_name(temporary_name());
        let file = File::options().write(true).create_new(true).open(&temporary).with_context(|| no_folder(&place))?;
        if let Some(old) = old {
            // A file that only its owner may read stays so.
            file.set_permissions(old.permissions()).with_context(cannot)?;
        }
        Ok(Self { file: BufWriter::new(file), temporary: Some(temporary), place })
    }

    /// Moves the file to its place once every byte is on the drive.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let written = self.file.flush();
        let moved = match &self.temporary {
            None => written,
            Some(temporary) => {
                let safe = written.and_then(|()| self.file.get_ref().sync_all());
                safe.and_then(|()| fs::rename(temporary, &self.place))
            }
        };
        if moved.is_ok() {
            self.temporary = None;
        }
        moved.with_context(|| format!("cannot write {}", self.place.display()))
    }
}

/// A name that no other output of this process or another has.
fn temporary_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(".plimsoll-{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether a file begins as models do: gigabytes that somebody waited for.
fn is_model(place: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(place).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
}

/// What to say where a file cannot be made; where its folder is missing, that.
fn no_folder(place: &Path) -> String {
    let message = format!("cannot write {}", place.display());
    match place.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        Some(folder) => format!("{message}\n\nhint: make the folder {} first", folder.display()),
        None => message,
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The failure that led here is the one to report.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Writes a small file whole or not at all.
pub(crate) fn write_whole(place: &Path, text: &str) -> anyhow::Result<()> {
    let mut output = Output::create(place)?;
    output.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", place.display()))?;
    output.finish()
}

/// The header of a `NumPy` file (format 1.0) of float32 rows, little-endian; the numbers follow it.
pub(crate) fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // Magic, version and length are 10 bytes; the whole is padded to a multiple of 64 and ends with a newline.
    let padded = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.push_str(&" ".repeat(padded - text.len() - 1));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&(padded as u16).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("out");
        write_whole(&place, "old").expect("written");
        let mut output = Output::create(&place).expect("a file");
        output.write_all(b"new").expect("written");
        drop(output);
        assert_eq!(fs::read_to_string(&place).expect("a file"), "old");
        write_whole(&place, "new").expect("written");
        assert_eq!(fs::read_to_string(&place).expect("a file"), "new");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_folder_is_refused_at_once_and_a_device_stays_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = crate::failure::message(&Output::create(folder.path()).err().expect("a refusal"));
        assert!(text.contains("it is a folder\n\nhint: "), "{text}");
        write_whole(Path::new("/dev/null"), "text").expect("written");
        assert!(!fs::metadata("/dev/null").expect("a device").is_file());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_keeps_its_place_and_a_file_its_permissions() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().expect("a folder");
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").expect("written");
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).expect("set");
        symlink(&target, &link).expect("a link");
        write_whole(&link, "new").expect("written");
        assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
        assert_eq!(fs::read_to_string(&target).expect("a file"), "new");
        assert_eq!(fs::metadata(&target).expect("a file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_model_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("model.gguf");
        fs::write(&place, gguf::testing::dense().bytes()).expect("written");
        let text = crate::failure::message(&write_whole(&place, "text").expect_err("a refusal"));
        assert!(text.contains("it is a model\n\nhint: "), "{text}");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("none/out");
        let error = write_whole(&place, "text").expect_err("no folder");
        let text = crate::failure::message(&error);
        assert!(
            text.contains("/none/out") && text.contains("hint: make the folder") && text.ends_with("first"),
            "{text}"
        );
    }

    #[test]
    fn a_numpy_header_is_as_long_as_it_says() {
        let header = npy_header(176, 2048);
        assert_eq!(header.len() % 64, 0);
        assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])) + 10, header.len());
        assert!(header.ends_with(b"\n"));
        assert!(String::from_utf8_lossy(&header).contains("'shape': (176, 2048), }"));
    }
}
