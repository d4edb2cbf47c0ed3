//! A device that meets an uncorrectable error while a guest has it: the guest loses the device, ends,
//! or goes on, as its document says.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, Job, Shape};

use crate::documents::cards;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(120);

const POOLS: [(&str, &str); 1] = [("port", r#"address: "0000:01:00.0""#)];

const PORT: &str = "0000:01:00.0";

/// A guest with the whole card.
fn guest(name: &str, on_device_error: &str) -> String {
    format!(
        r#"
apiVersion: assign/v1
kind: Guest
metadata: {{name: {name}}}
spec:
  memory: {{size: 256MiB}}
  boot: {{kernel: /boot/vmlinuz, initrd: /boot/guest.cpio, cmdline: "console=ttyS0 quiet lab=hold"}}
  devices: [{{name: port, claim: {{pool: port}}}}]
{on_device_error}"#
    )
}

fn start(host: &Host, name: &str) -> Result<Job> {
    let guest = guests::start(host, &format!("assign -o json run -f {name}.yaml"), GUEST_TIME)?;
    assert!(guest.output_so_far().contains("guest: eth0: ping 10.0.8.2: 3 of 3 answered"));
    Ok(guest)
}

fn owner(host: &Host) -> String {
    host.ok("assign status -o json | tr -d ' \\n'")
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn what_an_uncorrectable_error_does_is_the_guests_own_choice() -> Result<()> {
    meet_uncorrectable_errors(Host::intel())
}

pub fn meet_uncorrectable_errors(shape: Shape) -> Result<()> {
    let host = shape
        .frail()
        .limit(Duration::from_secs(340))
        .file("root/policy.yaml", cards(&POOLS))
        .file("root/goes-on.yaml", guest("goes-on", ""))
        .file("root/ends.yaml", guest("ends", "  onDeviceError: stop\n"))
        .file("root/copes.yaml", guest("copes", "  onDeviceError: report\n"))
        .boot()?;
    host.ok("assign apply -f policy.yaml");

    // Told, and nothing else.
    let copes = start(&host, "copes")?;
    host.inject_error("frail", "COMP_TIME")?;
    let told =
        |name: &str| format!(r#"{{"event":"device-error","guest":"{name}","device":"{PORT}"}}"#);
    copes.wait_for(&told("copes"), GUEST_TIME)?;
    assert!(owner(&host).contains("copes"), "{}", owner(&host));
    guests::stop(&copes)?;

    // The guest gives the device up and goes on; the next one finds it in order.
    let goes_on = start(&host, "goes-on")?;
    host.inject_error("frail", "COMP_TIME")?;
    goes_on.wait_for(&told("goes-on"), GUEST_TIME)?;
    let left = r#"{"event":"detached","guest":"goes-on","device":"0000:01:00.0","by":"guest""#;
    goes_on.wait_for(left, GUEST_TIME)?;
    goes_on.wait_for("guest: eth0: went", GUEST_TIME)?;
    assert!(!owner(&host).contains("goes-on"), "{}", owner(&host));

    let ends = start(&host, "ends")?;
    host.inject_error("frail", "COMP_TIME")?;
    let output = ends.wait(Duration::from_secs(60))?;
    assert_eq!(output.code, 1, "{}\n{}", output.stdout, output.stderr);
    assert!(output.stderr.contains(&told("ends")), "{}", output.stderr);
    assert!(output.stderr.contains("onDeviceError: stop"), "{}", output.stderr);
    assert!(output.stderr.contains(r#""reason":"device-error""#), "{}", output.stderr);
    assert!(!owner(&host).contains("ends"), "{}", owner(&host));

    guests::stop(&goes_on)?;
    Ok(())
}
