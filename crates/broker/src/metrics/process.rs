//! What the operating system knows of this process: memory, descriptors, threads, processor time.
//! Read from `/proc/self` when a page is asked for, never in between; elsewhere than on Linux the samples are missing.

use std::fs;

use super::prometheus::Page;

/// Units of processor time in `/proc`: fixed by Linux's interface, whatever the kernel's own clock is.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn write(page: &mut Page) {
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        let kib = |field: &str| {
            Some(field_of(&status, field)?.strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
        };
        if let Some(bytes) = kib("VmRSS:") {
            page.gauge("process_resident_memory_bytes", "Memory of the process that is resident.")
                .value(&[], bytes);
        }
        if let Some(bytes) = kib("VmSize:") {
            page.gauge("process_virtual_memory_bytes", "Address space of the process.").value(&[], bytes);
        }
        if let Some(threads) = field_of(&status, "Threads:") {
            page.gauge("process_threads", "Threads of the process.").value(&[], threads);
        }
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open file descriptors.").value(&[], descriptors.count());
    }
    if let Some(limit) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(descriptors_max) {
        page.gauge("process_max_fds", "Open file descriptors that are allowed.").value(&[], limit);
    }
    if let Some((cpu, start)) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(times) {
        page.counter("process_cpu_seconds_total", "Processor time of the process, user and system.")
            .value(&[], cpu);
        if let Some(boot) = boot_time() {
            let help = "When the process started, in seconds since 1970.";
            page.gauge("process_start_time_seconds", help).value(&[], boot + start);
        }
    }
}

fn field_of<'a>(status: &'a str, field: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(field)).map(str::trim)
}

fn descriptors_max(limits: &str) -> Option<&str> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()
}

/// Processor seconds, and the start in seconds after boot. The second field is the command in parentheses, which may
/// itself hold blanks and parentheses.
fn times(stat: &str) -> Option<(f64, f64)> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, ticks(19)? / TICKS_PER_SECOND))
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    field_of(&stat, "btime ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_times() {
        let stat = "1 (a) b) (c) S 1 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 5 0 1234 1 1";
        assert_eq!(times(stat), Some((3.0, 12.34)));
        assert_eq!(times("garbage"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_memory_and_descriptors() {
        let mut page = Page::default();
        write(&mut page);
        let text = page.into_text();
        for name in [
            "resident_memory_bytes",
            "open_fds",
            "max_fds",
            "cpu_seconds_total",
            "start_time_seconds",
            "threads",
        ] {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{name} is missing in\n{text}");
        }
    }
}
