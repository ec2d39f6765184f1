//! A small file system in memory for one table, so that its disk can be full. It is unmounted with the value.

use crate::shell;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const CHUNK_BYTES: usize = 64 << 10;

pub(super) struct Room {
    place: PathBuf,
    log: PathBuf,
}

impl Room {
    pub(super) fn mount(place: &Path, megabytes: u64, log: &Path) -> Result<Self, String> {
        fs::create_dir_all(place).map_err(|error| format!("{}: {error}", place.display()))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(place);
        shell::run_logged(&mut mount, log)?;
        Ok(Self { place: place.to_path_buf(), log: log.to_path_buf() })
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    fn ballast(&self) -> PathBuf {
        self.place.join("ballast")
    }

    /// Leaves not a page.
    pub(super) fn fill(&self) -> Result<(), String> {
        let path = self.ballast();
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        let mut size = CHUNK_BYTES;
        let zeros = vec![0; size];
        while size > 0 {
            match file.write_all(&zeros[..size]) {
                Ok(()) => {}
                // What is left is smaller than that, and is taken in smaller pieces.
                Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub(super) fn drain(&self) -> Result<(), String> {
        let path = self.ballast();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(format!("{}: {error}", path.display())),
            _ => Ok(()),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Somebody may still have a file open: it goes when that one ends.
        let _ = shell::run_logged(Command::new("umount").arg("--lazy").arg(&self.place), &self.log);
    }
}
