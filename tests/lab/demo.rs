//! `cargo lab demo`: what `assign` does, on an emulated host, from its first look at the devices to
//! the host as it was before. Everything shown is typed and happens there; every step is checked.

mod stage;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::stage::{Stage, Typed};
use crate::host::Host;
use crate::setup::Ready;
use crate::{image, progress};

const POLICY: &str = "/examples/edge-node.yaml";

/// How long a guest may take to boot and try its network. Ten seconds are usual.
const GUEST: Duration = Duration::from_secs(90);

/// Boots a host and tells the story. The error of a step that goes wrong says which, and holds what
/// is known about it.
pub fn run(ready: &Ready) -> Result<()> {
    let begun = Instant::now();
    // What has a progress of its own comes before the step.
    image::build_programs()?;
    image::host(&ready.kit)?;
    let step = progress::step("booting an emulated host");
    let host = Host::start(ready, &Host::intel().igb(1).bridge())?;
    step.done();
    let mut stage = Stage::new(&host);
    stage.say(
        "This machine now runs another one in QEMU: a host with an IOMMU, KVM, and a network card \
         that can divide itself (SR-IOV). It is slow, but real enough for the kernel's own drivers. \
         What follows is typed there.",
    )?;
    let before = facts(&host)?;
    tell(&mut stage).with_context(|| format!("step {} of the demo", stage.chapter()))?;
    stage.begin("The host is as it was")?;
    compare(&mut stage, &before, &facts(&host)?)
        .with_context(|| format!("step {} of the demo", stage.chapter()))?;
    stage.say(&format!("The demo took {} s. What next:", begun.elapsed().as_secs()))?;
    stage.lines(&[
        "",
        "  cargo lab shell   the same host, for you to try things",
        "  cargo lab test    all tests, those on emulated hosts too",
        "  examples/         the files used here, commented, to start from",
    ])
}

fn tell(stage: &mut Stage<'_>) -> Result<()> {
    look(stage)?;
    plan(stage)?;
    apply(stage)?;
    drift(stage)?;
    let mut first = first_guest(stage)?;
    second_guest(stage)?;
    stop(stage, &mut first)?;
    stage.begin("Take it all back")?;
    stage.say("What applying the policy has changed is undone, in the opposite order.")?;
    stage.run(&format!("assign remove -f {POLICY}"), &["destroy its 1 VF"])?;
    Ok(())
}

fn look(stage: &mut Stage<'_>) -> Result<()> {
    stage.begin("What the host has")?;
    stage.say(
        "Of its devices, the network cards. VFS 0/7: the card behind eth0 could have 7 virtual \
         functions (VFs), each a small card of its own, and has none yet. GROUP: what the IOMMU can \
         keep apart from the rest.",
    )?;
    let devices = stage.run("assign devices ethernet", &["0000:01:00.0", "eth0"])?;
    ensure!(devices.contains("0/7"), "eth0 does not show 0 of 7 VFs:\n{devices}");
    Ok(())
}

fn plan(stage: &mut Stage<'_>) -> Result<()> {
    stage.begin("What it should have")?;
    stage.say("A policy says so: here, one VF in a pool that guests can take it from.")?;
    stage.run(&format!("grep -v '^ *#' {POLICY} | grep ."), &["kind: Policy", "name: lan"])?;
    stage.say("The plan is what would have to change for it. Planning changes nothing.")?;
    stage.run(&format!("assign plan -f {POLICY}"), &["create 1 VF"])?;
    Ok(())
}

fn apply(stage: &mut Stage<'_>) -> Result<()> {
    stage.begin("Make it so")?;
    stage.say("All steps, or none: should one fail, those before it are undone.")?;
    let apply = format!("assign apply -f {POLICY}");
    stage.run(&apply, &["create 1 VF"])?;
    stage.say("There it is, bound to vfio-pci, the driver that hands a device to a guest:")?;
    stage.run("assign vf list", &["0000:01:10.0", "vfio-pci"])?;
    stage
        .say("A policy is a state and not a script. Once it is reached, nothing is left to do:")?;
    stage.run(&apply, &["nothing to do"])?;
    Ok(())
}

fn drift(stage: &mut Stage<'_>) -> Result<()> {
    stage.begin("Somebody else's hand")?;
    stage.say("A script, or a colleague, takes the VF from its driver:")?;
    stage.run("echo 0000:01:10.0 > /sys/bus/pci/drivers/vfio-pci/unbind", &[])?;
    stage.say("What differs is named, one thing a line; scripts look at the exit code.")?;
    let diff = format!("assign diff -f {POLICY}; echo \"exit code $?\"");
    stage.run(&diff, &["should be vfio-pci", "exit code 4"])?;
    stage.say("Applying again mends that, and touches nothing else.")?;
    stage.run(&format!("assign apply -f {POLICY}"), &["bind to vfio-pci", "1 step made"])?;
    Ok(())
}

fn first_guest(stage: &mut Stage<'_>) -> Result<Typed> {
    stage.begin("A guest on the VF")?;
    stage.say(
        "The guest claims a VF from the pool, or falls back to a bridge. A VF is free, so the guest \
         gets it, and from its first packet on nothing stands between the two.",
    )?;
    stage.run("sed -n '/networks:/,$ p' /examples/web-1.yaml | grep -v '#'", &["claim"])?;
    stage.say("It takes some seconds to boot; \"guest:\" is what it says on its console.")?;
    let mut guest = stage.type_in("assign run -f /examples/web-1.yaml")?;
    let lines = guest.until("guest: holding", GUEST)?;
    let expected = ["through vfio", "eth0: igbvf at", "ping 10.0.2.2: 3 of 3 answered"];
    guest.must_hold(&lines, &expected)?;
    ensure_interrupts(&guest, &lines)?;
    stage.say(
        "The kernel in the guest drives the card by itself (igbvf), has a lease from the card's \
         network, and gets the card's interrupts. It stays, and pings on.",
    )?;
    Ok(guest)
}

fn second_guest(stage: &mut Stage<'_>) -> Result<()> {
    stage.begin("A second guest, and no VF left")?;
    stage.say("The only VF is leased, and nothing else touches a leased device:")?;
    stage.run("assign vf list", &["web-1"])?;
    stage.say(
        "Another guest with the same claim. It starts all the same, and says why without a VF:",
    )?;
    let mut guest = stage.type_in("assign run -f /examples/web-2.yaml")?;
    let lines = guest.finish(GUEST)?;
    let expected = [
        "virtio on br0",
        "leased to web-1",
        "eth0: virtio_net at",
        "ping 10.0.3.2: 3 of 3 answered",
        "web-2: powered off",
    ];
    guest.must_hold(&lines, &expected)?;
    stage.say("Its lease comes from the network behind br0: another one than the card's.")
}

fn stop(stage: &mut Stage<'_>, guest: &mut Typed) -> Result<()> {
    stage.begin("The first guest ends")?;
    stage.say("Its console listens for the word that ends it. The VF comes back by itself.")?;
    guest.enter("stop")?;
    let lines = guest.finish(GUEST)?;
    guest.must_hold(&lines, &["web-1: powered off"])?;
    ensure_interrupts(guest, &lines)?;
    stage.say("The VF has no owner now, and is still there for the next guest:")?;
    let vfs = stage.run("assign vf list", &["0000:01:10.0"])?;
    ensure!(!vfs.contains("web-1"), "the VF is still leased to web-1:\n{vfs}");
    Ok(())
}

/// That a guest reports interrupts of its VF.
fn ensure_interrupts(guest: &Typed, lines: &str) -> Result<()> {
    let counts = lines.lines().filter(|line| line.contains("(MSI-X)")).filter_map(|line| {
        line.split_once("interrupts ")?.1.split(' ').next()?.parse::<u64>().ok()
    });
    match counts.max() {
        Some(1..) => Ok(()),
        _ => Err(guest.error("the guest has had no interrupt (MSI-X) from its VF")),
    }
}

/// Everything on the host that giving devices away touches, a fact a line.
const FACTS: &str = r#"
cd /sys/bus/pci/devices
for device in *; do
    driver=$(readlink "$device/driver")
    echo "$device driver ${driver##*/}"
    for name in driver_override sriov_numvfs sriov_drivers_autoprobe; do
        [ -e "$device/$name" ] && echo "$device $name $(cat "$device/$name")"
    done
done
for interface in /sys/class/net/*; do
    master=$(readlink "$interface/master")
    echo "${interface##*/} address $(cat "$interface/address")"
    echo "${interface##*/} flags $(cat "$interface/flags")"
    echo "${interface##*/} bridge ${master##*/}"
done
echo "IOMMU groups $(ls /sys/kernel/iommu_groups | sort -n | tr '\n' ' ')"
echo "VFIO devices $(ls /dev/vfio | tr '\n' ' ')"
echo "running VMMs $(pidof assign-vmm)"
assign devices | tr -s ' '
"#;

fn facts(host: &Host) -> Result<String> {
    let output = host.run(FACTS)?;
    ensure!(output.code == 0, "cannot read the host's state: {output:?}");
    Ok(output.stdout)
}

fn compare(stage: &mut Stage<'_>, before: &str, after: &str) -> Result<()> {
    let difference = difference(before, after);
    ensure!(
        difference.is_empty(),
        "the host is not as it was before step 1 (- then, + now):\n{difference}"
    );
    stage.say(&format!(
        "Drivers, overrides, VF counts, interfaces with their addresses and flags, IOMMU groups, \
         processes: {} facts were noted before step 1, and all are the same now.",
        before.lines().count()
    ))
}

/// The lines that only one of the two has. Each names its thing, so their order says nothing.
fn difference(before: &str, after: &str) -> String {
    let only = |sign: char, these: &str, others: &str| -> String {
        let gone = these.lines().filter(|line| others.lines().all(|other| other != *line));
        gone.map(|line| format!("{sign} {line}\n")).collect()
    };
    only('-', before, after) + &only('+', after, before)
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn what_only_one_side_has_is_a_difference() {
        assert_eq!(difference("a 1\nb 2\n", "b 2\na 1\n"), "");
        assert_eq!(difference("a 1\nb 2\n", "a 1\nb 3\nc 4\n"), "- b 2\n+ b 3\n+ c 4\n");
    }
}
