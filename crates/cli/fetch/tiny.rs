//! A hub on this machine with one repository `o/r`, for tests.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A sound model in so many parts, each longer than what is read of its header.
pub(super) fn parts_of_a_set(stem: &str, parts: usize) -> Vec<(String, Vec<u8>)> {
    let longer = |(path, draft): (String, gguf::testing::Draft)| {
        let mut bytes = draft.bytes();
        bytes.resize(bytes.len().max(1 << 20), 0);
        (path, bytes)
    };
    gguf::testing::split(&gguf::testing::dense(), stem, parts).into_iter().map(longer).collect()
}

/// A hub that answers until the test ends.
pub(super) struct TinyHub {
    pub(super) address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

struct Repository {
    files: Vec<(String, Vec<u8>)>,
    etag: &'static str,
    /// Whether longer ranges than one byte are answered with a part.
    ranges: bool,
}

impl TinyHub {
    /// A hub of these files.
    pub(super) fn new(files: Vec<(String, Vec<u8>)>, etag: &'static str) -> Self {
        Self::serve(Repository { files, etag, ranges: true })
    }

    /// One that answers with whole files.
    pub(super) fn without_ranges(files: Vec<(String, Vec<u8>)>) -> Self {
        Self::serve(Repository { files, etag: "abc", ranges: false })
    }

    /// The ranges that were asked for.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }

    fn serve(repository: Repository) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away early fails this answer only.
                let _ = answer(&stream, &repository, &heard);
            }
        });
        Self { address, asked }
    }
}

fn answer(mut stream: &TcpStream, repository: &Repository, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let lines: Vec<String> =
        BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let target = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or("").to_owned();
    if target.starts_with("/api/models/o/r") {
        let names = repository.files.iter().map(|(name, _)| format!(r#"{{"rfilename":"{name}"}},"#));
        let body =
            format!(r#"{{"siblings":[{}{{"rfilename":"README.md"}}],"sha":"c0ffee"}}"#, names.collect::<String>());
        let length = body.len();
        return write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    }
    let path = target.strip_prefix("/o/r/resolve/main/").unwrap_or_default();
    let Some(place) = repository.files.iter().position(|(name, _)| name == path) else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let file = &repository.files[place].1;
    let range =
        lines.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let range = range.unwrap_or_else(|| "0-".into());
    asked.lock().expect("no panic").push(range.clone());
    if !repository.ranges && range != "0-0" {
        let length = file.len();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")?;
        return stream.write_all(file);
    }
    let (start, end) = range.split_once('-').unwrap_or(("0", ""));
    let start: usize = start.parse().unwrap_or(0);
    let end = end.parse().unwrap_or(file.len() - 1);
    let body = &file[start..=end];
    // Files of one tag would be one file.
    let etag = if place == 0 { repository.etag.to_owned() } else { format!("{}{place}", repository.etag) };
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\netag: \"{etag}\"\r\nx-repo-commit: c0ffee\r\n\
         content-range: bytes {start}-{end}/{}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        file.len(),
        body.len()
    )?;
    stream.write_all(body)
}
