//! A table in an object store: whole objects by name, each put in one step, and no directories.
//!
//! All that is asked of the store is that an object can be put if none of its name is there, and that who lists or reads sees what
//! was put before. So nothing is written beside the table and renamed into it: what decides is who puts an object first. That an
//! object is there already may be one's own doing, where the answer was lost: whoever puts says what is as good as its own.
//!
//! Paths are `s3://BUCKET/KEY` throughout; what is above an object is not there before the object is.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::files::{Entry, Files, NewFile};

/// What an address begins with.
pub(crate) const SCHEME: &str = "s3://";

/// What one request can put.
pub(crate) const OBJECT_BYTES_MAX: u64 = 5 << 30;

/// Whether an object may be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It must not: [`ErrorKind::AlreadyExists`] says that one is.
    New,
    /// It is replaced.
    Over,
}

/// How far a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Up to the next `/`, with which a name ends below which there is more.
    One,
    /// All names.
    All,
}

/// The objects of one bucket, by key. Each method is one step that may fail, or never return.
pub trait Objects: Send + Sync + 'static {
    /// Puts an object, all of it or nothing; durable when this returns.
    fn put(&self, key: &str, content: Bytes, put: Put) -> io::Result<()>;

    /// All of an object.
    fn get(&self, key: &str) -> io::Result<Vec<u8>>;

    /// The end of an object, as much of it as is asked for, and how long the whole is.
    fn get_end(&self, key: &str, bytes_max: usize) -> io::Result<(u64, Vec<u8>)>;

    /// Keys that begin with this.
    fn list(&self, prefix: &str, depth: Depth) -> io::Result<Vec<String>>;

    /// Removes an object, which need not be there.
    fn delete(&self, key: &str) -> io::Result<()>;

    /// Whatever is waited for fails, and so does all that is asked from here on: it is one run's.
    fn give_up(&self) {}
}

/// A bucket.
#[derive(Clone)]
pub struct Bucket {
    objects: Arc<dyn Objects>,
    name: String,
    /// Where files are written before they are put.
    spool: PathBuf,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.name)
    }
}

impl Bucket {
    /// The bucket of this name. Files are written to a local directory before they are put.
    pub fn new(objects: Arc<dyn Objects>, name: impl Into<String>, spool: impl Into<PathBuf>) -> Self {
        Self { objects, name: name.into(), spool: spool.into() }
    }

    /// An object's key.
    fn key(&self, path: &Path) -> io::Result<String> {
        let key = path.to_str().and_then(|path| path.strip_prefix(SCHEME)?.strip_prefix(&*self.name));
        match key {
            Some("") => Ok(String::new()),
            Some(key) if key.starts_with('/') => Ok(key[1..].trim_end_matches('/').to_owned()),
            _ => Err(io::Error::other(format!("{} is not in {self:?}", path.display()))),
        }
    }

    /// Nobody waits for it any more.
    pub(crate) fn give_up(&self) {
        self.objects.give_up();
    }

    /// What the keys below a path begin with.
    fn below(&self, path: &Path) -> io::Result<String> {
        let key = self.key(path)?;
        Ok(if key.is_empty() { key } else { format!("{key}/") })
    }

    /// Puts an object.
    pub(crate) fn put(&self, path: &Path, content: impl Into<Bytes>, put: Put) -> io::Result<()> {
        self.objects.put(&self.key(path)?, content.into(), put)
    }

    /// Puts an object that must not be there, unless it is the very same.
    pub(crate) fn put_same(&self, path: &Path, content: &Bytes) -> io::Result<()> {
        match self.put(path, content.clone(), Put::New) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match self.read(path) {
                Ok(found) if found == **content => Ok(()),
                Err(failed) if failed.kind() != ErrorKind::NotFound => Err(failed),
                _ => Err(error),
            },
            put => put,
        }
    }

    /// All objects below a path, by what stands behind it.
    pub(crate) fn list_all(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let prefix = self.below(path)?;
        let keys = self.objects.list(&prefix, Depth::All)?;
        let mut names: Vec<_> =
            keys.iter().filter_map(|key| Some(PathBuf::from(key.strip_prefix(&prefix)?))).collect();
        names.sort();
        Ok(names)
    }

    /// A local file without a name: it is gone with whoever has it open.
    pub(crate) fn spool(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.spool).map_err(|error| {
            let spool = self.spool.display();
            io::Error::new(error.kind(), format!("cannot write a file to {spool} before it is put: {error}"))
        })
    }

    /// Whether the store does what everything here stands on: an object that is there is not put again, and is read, listed and
    /// removed. One that overlooks the condition would double records without a word.
    pub(crate) fn probe(&self, path: &Path) -> io::Result<()> {
        let again = match self.put(path, Bytes::from_static(b"1"), Put::New) {
            Ok(()) => self.put(path, Bytes::from_static(b"2"), Put::New),
            // Nobody else has this name: it was put, asked again as the answer was lost, and refused then.
            refused => refused,
        };
        let unsupported = |problem| Err(io::Error::new(ErrorKind::Unsupported, problem));
        let is_there = match again {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => true,
            Err(error) => return Err(error),
            Ok(()) => false,
        };
        let (read, listed) = (self.read(path), self.list(path.parent().unwrap_or(path)));
        self.remove(path)?;
        read?;
        let name = path.file_name().and_then(OsStr::to_str);
        let is_listed = match listed {
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            listed => listed?.iter().any(|entry| Some(&*entry.name) == name),
        };
        match (is_there, is_listed) {
            (true, true) => Ok(()),
            (false, _) => unsupported(
                "the store puts an object over one that is there, though it is asked not to (If-None-Match: *): records would be there twice",
            ),
            (true, false) => unsupported(
                "the store does not list an object that was put just now: what is in the table would be overlooked",
            ),
        }
    }
}

fn not_here(doing: &str) -> io::Error {
    io::Error::new(ErrorKind::Unsupported, format!("an object store cannot {doing}"))
}

/// A small object, until it is whole.
struct NewObject {
    bucket: Bucket,
    path: PathBuf,
    content: Vec<u8>,
}

impl Write for NewObject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.content.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for NewObject {
    fn sync(&mut self) -> io::Result<()> {
        self.bucket.put_same(&self.path, &Bytes::from(self.content.clone()))
    }
}

impl Files for Bucket {
    fn bucket(&self) -> Option<&Bucket> {
        Some(self)
    }

    /// There are none to be made.
    fn make_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let prefix = self.below(path)?;
        let keys = self.objects.list(&prefix, Depth::One)?;
        let entry = |key: &String| {
            let name = key.strip_prefix(&prefix)?;
            let (name, is_dir) = name.strip_suffix('/').map_or((name, false), |name| (name, true));
            (!name.is_empty()).then(|| Entry { name: name.to_owned(), is_dir })
        };
        let mut entries: Vec<_> = keys.iter().filter_map(entry).collect();
        if entries.is_empty() {
            return Err(ErrorKind::NotFound.into());
        }
        entries.sort();
        Ok(entries)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.objects.get(&self.key(path)?)
    }

    fn read_end(&self, path: &Path, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        self.objects.get_end(&self.key(path)?, bytes_max)
    }

    /// It is there once it is synced, and whole.
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(NewObject { bucket: self.clone(), path: path.to_owned(), content: Vec::new() }))
    }

    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(not_here("give an object a second name"))
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(not_here("rename"))
    }

    fn exchange(&self, _one: &Path, _other: &Path) -> io::Result<()> {
        Err(not_here("exchange two directories"))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.objects.delete(&self.key(path)?)
    }

    /// What was put is durable.
    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Splits an address into its bucket and what stands behind it, without a `/` at the end; says what is wrong with one that is none.
pub(crate) fn parse_address(address: &str) -> Result<(String, String), String> {
    let rest = address.strip_prefix(SCHEME).ok_or("it begins with s3://")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(is_name) {
        return Err(format!("{bucket:?} is no bucket: 3 to 63 letters, digits, '-', '_' and '.' are"));
    }
    let prefix = prefix.trim_end_matches('/');
    let is_part = |part: &str| {
        !part.is_empty() && !part.starts_with(['.', '_']) && part.chars().all(|c| is_name(c) || c == '=')
    };
    if !prefix.is_empty() && !prefix.split('/').all(is_part) {
        return Err(format!(
            "{prefix:?} is no place in a bucket: parts of letters, digits, '-', '_', '.' and '=' are, which do not begin with '.' or '_', with a / between them"
        ));
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::Path;
    use std::sync::Arc;

    use super::{Bucket, parse_address};
    use crate::testing::Kept;

    #[test]
    fn a_store_is_tried_out_before_anything_is_trusted_to_it() {
        let told = |kept: Kept| {
            let kept = Arc::new(kept);
            let bucket = Bucket::new(kept.clone(), "shop", std::env::temp_dir());
            let probed = bucket.probe(Path::new("s3://shop/t/_staging/probe"));
            assert!(kept.objects.lock().unwrap().is_empty(), "nothing is left");
            probed.map_err(|error| (error.kind(), error.to_string()))
        };
        assert_eq!(told(Kept::default()), Ok(()));
        let (kind, problem) = told(Kept { is_replacing: true, ..Kept::default() }).unwrap_err();
        assert!(kind == ErrorKind::Unsupported && problem.contains("(If-None-Match: *)"), "{problem}");
        let (kind, problem) = told(Kept { is_hiding: true, ..Kept::default() }).unwrap_err();
        assert!(kind == ErrorKind::Unsupported && problem.contains("does not list"), "{problem}");
        let (kind, _) = told(Kept { is_unlisted: true, ..Kept::default() }).unwrap_err();
        assert_eq!(kind, ErrorKind::PermissionDenied);
    }

    #[test]
    fn an_address_is_a_bucket_and_a_place_in_it() {
        let told =
            |address: &str| parse_address(address).map(|(bucket, prefix)| format!("{bucket}:{prefix}"));
        assert_eq!(told("s3://shop/tables/orders/").as_deref(), Ok("shop:tables/orders"));
        assert_eq!(told("s3://shop").as_deref(), Ok("shop:"));
        for (address, named) in [
            ("s3://", "\"\" is no bucket"),
            ("s3://sh/orders", "\"sh\" is no bucket"),
            ("s3://a key:secret@shop/orders", "is no bucket"),
            ("s3://shop//orders", "\"/orders\" is no place"),
            ("s3://shop/../orders", "is no place"),
            ("s3://shop/_orders", "is no place"),
            ("s3://shop/order s", "is no place"),
        ] {
            let refused = told(address).unwrap_err();
            assert!(refused.contains(named), "{address}: {refused}");
        }
    }
}
