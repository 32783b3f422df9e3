//! Files that commands write: whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A file under a temporary name beside its place; [`Self::finish`] moves it there, dropping it removes it. Pipes and
/// devices are written as they are.
pub(crate) struct Output {
    file: BufWriter<File>,
    temporary: Option<PathBuf>,
    place: PathBuf,
}

impl Output {
    pub(crate) fn create(place: &Path) -> anyhow::Result<Self> {
        let name = place.file_name().with_context(|| format!("{} names no file to write", place.display()))?;
        match fs::metadata(place) {
            Ok(there) if there.is_dir() => {
                anyhow::bail!("cannot write {}: it is a folder\n\nhint: name a file in it", place.display())
            }
            Ok(there) if !there.is_file() => {
                let file = File::options().write(true).open(place);
                let file = file.with_context(|| format!("cannot write {}", place.display()))?;
                return Ok(Self { file: BufWriter::new(file), temporary: None, place: place.to_owned() });
            }
            _ => {}
        }
        let temporary = place.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let file = File::create(&temporary).with_context(|| no_folder(place))?;
        Ok(Self { file: BufWriter::new(file), temporary: Some(temporary), place: place.to_owned() })
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
