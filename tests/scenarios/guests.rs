//! Guests that stay, trying their networks once a second, until they are told to stop.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::{Host, Job};

/// How long a guest may take to report and power off.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Starts one by this command and waits for at most `limit` until it has tried its networks.
pub fn start(host: &Host, command: &str, limit: Duration) -> Result<Job> {
    let guest = host.spawn(command);
    guest.wait_for("guest: holding", limit)?;
    Ok(guest)
}

/// Waits for at most `limit` until it is there again, after it began anew.
pub fn await_again(guest: &Job, limit: Duration) {
    let limit = Instant::now() + limit;
    while guest.output_so_far().matches("guest: holding").count() < 2 {
        assert!(Instant::now() < limit, "{}", guest.output_so_far());
        thread::sleep(Duration::from_millis(200));
    }
}

/// Has it end in order.
pub fn stop(guest: &Job) -> Result<()> {
    guest.stdin("stop\n");
    let output = guest.wait(ENDS_WITHIN)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    Ok(())
}

/// Waits until no VMM is left. One that was killed holds its devices until the kernel has taken it
/// apart, which may be after its launcher's end.
pub fn wait_until_none(host: &Host) {
    host.ok("for i in $(seq 100); do pidof assign-vmm || exit 0; usleep 100000; done; exit 1");
}
