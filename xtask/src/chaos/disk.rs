//! A broker's disk: an ext4 in a sparse file behind a loop device.
//!
//! Power is lost while the broker stands still. The file system is shut down without a flush (EXT4_IOC_SHUTDOWN): what
//! is only in the page cache, and metadata that is only in the running transaction of the journal, never reaches the
//! device; then the broker is killed, and a mount replays the journal. So exactly what fsync has waited for must be there,
//! and what nobody has flushed mostly is not: the journal commits every 300 s by itself, and renames flush nothing
//! (`noauto_da_alloc`). What this does not do is lose blocks that the kernel has written and the device has not flushed.

use crate::shell;
use crate::toolbox::Toolbox;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sparse: as much of it is used as is written.
const IMAGE_BYTES: u64 = 16 << 30;
/// What is left for `dd`, which writes until nothing fits any more, when the rest is only reserved.
const WRITTEN_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    log: PathBuf,
}

impl Disk {
    /// Makes and mounts it.
    pub(super) fn make(home: &Path) -> Result<Self, String> {
        let disk =
            Self { image: home.join("disk.img"), mount: home.join("disk"), log: home.join("disk.log") };
        disk.format().map_err(|error| format!("cannot make an ext4 on a loop device here: {error}"))?;
        Ok(disk)
    }

    fn format(&self) -> Result<(), String> {
        fs::create_dir_all(&self.mount)
            .and_then(|()| File::create(&self.image)?.set_len(IMAGE_BYTES))
            .map_err(|error| format!("{}: {error}", self.image.display()))?;
        // Nothing is reserved for root, who we are: a full disk is full.
        shell::run_logged(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&self.image), &self.log)?;
        self.mount()
    }

    fn mount(&self) -> Result<(), String> {
        let mut command = Command::new("mount");
        command.args(["-t", "ext4", "-o", "loop,commit=300,noauto_da_alloc"]);
        shell::run_logged(command.arg(&self.image).arg(&self.mount), &self.log)
    }

    /// Where files are kept.
    pub(super) fn root(&self) -> &Path {
        &self.mount
    }

    /// Mounts what has survived on the device; nobody has a file open.
    pub(super) fn power_on(&self) -> Result<(), String> {
        shell::run_logged(Command::new("umount").arg(&self.mount), &self.log)?;
        self.mount()
    }

    /// Leaves not a byte.
    pub(super) fn fill(&self) -> Result<(), String> {
        let mut space = Command::new("df");
        let space = shell::pipe(space.args(["--output=avail", "-B1"]).arg(&self.mount), "", &self.log)?;
        let free = space.lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok());
        let free = free.ok_or_else(|| format!("df said: {space}"))?;
        let [reserved, written] = self.ballast();
        let mut reserve = Command::new("fallocate");
        reserve.args(["-l", &free.saturating_sub(WRITTEN_BYTES).max(1).to_string()]);
        // The broker writes meanwhile, so this may not fit; then dd has more to do.
        let _ = shell::run_logged(reserve.arg(reserved), &self.log);
        let mut write = Command::new("dd");
        write.args(["if=/dev/zero", "bs=4k", &format!("of={}", written.display())]);
        // It ends because nothing fits any more: that is a failure to it.
        let _ = shell::run_logged(&mut write, &self.log);
        Ok(())
    }

    /// Gives the room back.
    pub(super) fn drain(&self) -> Result<(), String> {
        for path in self.ballast() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(format!("{}: {error}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn ballast(&self) -> [PathBuf; 2] {
        [self.mount.join("ballast-reserved"), self.mount.join("ballast-written")]
    }
}

/// Takes the power of all of them as close together as it gets.
pub(super) fn power_off(toolbox: &Toolbox, disks: &[&Disk]) -> Result<(), String> {
    let first = disks.first().expect("some disk loses its power");
    let mut program = toolbox.python_program("power_off.py");
    program.args(disks.iter().map(|disk| &disk.mount));
    shell::run_logged(&mut program, &first.log)
}
