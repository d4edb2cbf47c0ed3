//! Reading files and folders of documents.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::documents::{Documents, Source, parse_into};
use crate::error::{Error, Errors};

/// Largest file read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most files taken from one folder.
const MAX_FILES: usize = 1000;

/// Reads files, and of folders the `*.yaml` and `*.yml` files in the order of their names (not
/// those of folders within); `-` is standard input. All of it is parsed together.
///
/// # Errors
/// What cannot be read, followed by everything wrong in what could.
pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Documents, Errors> {
    let (sources, mut errors) = read(paths);
    let documents = parse_into(&sources, &mut errors);
    if errors.is_empty() { Ok(documents) } else { Err(Errors(errors)) }
}

/// The same with the documents of each file apart, in the order of the files, each with its name.
///
/// # Errors
/// As [`load`]: the files are still checked together.
pub fn load_each<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<(String, Documents)>, Errors> {
    let (sources, mut errors) = read(paths);
    parse_into(&sources, &mut errors);
    let mut each = Vec::new();
    if errors.is_empty() {
        for source in sources {
            let documents = parse_into(std::slice::from_ref(&source), &mut errors);
            each.push((source.name, documents));
        }
    }
    if errors.is_empty() { Ok(each) } else { Err(Errors(errors)) }
}

/// Reads the same files and parses nothing: their texts, for those who keep them.
///
/// # Errors
/// What cannot be read.
pub fn sources<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<Source>, Errors> {
    let (sources, errors) = read(paths);
    if errors.is_empty() { Ok(sources) } else { Err(Errors(errors)) }
}

fn read<P: AsRef<Path>>(paths: &[P]) -> (Vec<Source>, Vec<Error>) {
    let (mut sources, mut errors) = (Vec::new(), Vec::new());
    for path in paths.iter().map(AsRef::as_ref) {
        let files = match path.is_dir() {
            true => folder(path),
            false => Ok(vec![path.to_owned()]),
        };
        match files {
            Ok(files) => {
                for file in files {
                    match source(&file) {
                        Ok(source) => sources.push(source),
                        Err(error) => errors.push(error),
                    }
                }
            }
            Err(error) => errors.push(error),
        }
    }
    (sources, errors)
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let name = path.display().to_string();
    let failed = |error: io::Error| Error::of_file(&name, format!("cannot be listed: {error}"));
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let yaml = file.extension().is_some_and(|end| end == "yaml" || end == "yml");
        if yaml && !file.is_dir() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Error::of_file(&name, "holds no *.yaml or *.yml file"));
    }
    if files.len() > MAX_FILES {
        let message = format!("holds {} YAML files; {MAX_FILES} is the most", files.len());
        return Err(Error::of_file(&name, message));
    }
    files.sort();
    Ok(files)
}

fn source(path: &Path) -> Result<Source, Error> {
    let stdin = path.as_os_str() == "-";
    let name = if stdin { "standard input".to_owned() } else { path.display().to_string() };
    let read = || -> io::Result<Vec<u8>> {
        let input: Box<dyn Read> = match stdin {
            true => Box::new(io::stdin()),
            false => Box::new(File::open(path)?),
        };
        let mut bytes = Vec::new();
        // One byte more than allowed tells a file that is too large.
        input.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| Error::of_file(&name, unreadable(&error)))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::of_file(&name, "is larger than 1 MiB: not a file of this language"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let message = format!("is not UTF-8 text: byte {at} begins no character");
            Err(Error::of_file(&name, message))
        }
    }
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}
