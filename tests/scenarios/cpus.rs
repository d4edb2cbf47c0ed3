//! The CPUs of a guest: where they run, how they lie, and what they can do.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
/// As many CPUs as can be come up one after the other on the host's only one.
const MANY_TIME: Duration = Duration::from_secs(300);

/// Where the thread of this name runs, of the only guest.
fn allowed(host: &Host, thread: &str) -> String {
    let threads = host
        .ok("for task in /proc/$(pidof assign-vmm)/task/*; do echo $(cat $task/comm) $(grep \
         Cpus_allowed_list $task/status); done");
    let line = threads.lines().find(|line| line.starts_with(&format!("{thread} ")));
    line.and_then(|line| line.split(' ').nth(2)).unwrap_or_else(|| panic!("{threads}")).to_owned()
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn threads_run_on_the_cpus_that_a_document_names_and_others_are_refused() -> Result<()> {
    let pinned = Guest::new("pinned", "hold").cpus_as("{count: 2, pin: {0: 0}}");
    let apart = Guest::new("apart", "hold").cpus_as("{count: 1, pin: {0: 0}, emulator: 0}");
    let far = Guest::new("far", "hold").cpus_as("{count: 2, pin: {0: 0, 1: \"0,7\"}}");
    let off = Guest::new("off", "hold").cpus_as("{count: 1, emulator: \"0-1\"}");
    let host = Host::intel()
        .limit(Duration::from_secs(400))
        .file("root/off.yaml", off.to_string())
        .file("root/pinned.yaml", pinned.to_string())
        .file("root/apart.yaml", apart.to_string())
        .file("root/far.yaml", far.to_string())
        .boot()?;
    let refused = host.run("assign run -f far.yaml </dev/null")?;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("far: vCPU 1 cannot run on CPU 7 of this host, which does not have it"),
        "{}",
        refused.stderr
    );
    let refused = host.run("assign run -f off.yaml </dev/null")?;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains(
            "off: all but its vCPUs cannot run on CPU 1 of this host, which does not have it"
        ),
        "{}",
        refused.stderr
    );
    host.ok("! pidof assign-vmm");

    let guest = guests::start(&host, "assign run -f pinned.yaml", GUEST_TIME)?;
    // The host has no other: that the sandbox lets them ask for it is what this shows.
    assert_eq!((allowed(&host, "vcpu0"), allowed(&host, "vcpu1")), ("0".into(), "0".into()));
    let listed = host.ok("assign ps -o json");
    assert!(listed.contains("\"0\": \"0\""), "{listed}");
    guests::stop(&guest)?;
    let guest = guests::start(&host, "assign run -f apart.yaml", GUEST_TIME)?;
    for thread in ["vcpu0", "assign-vmm", "control"] {
        assert_eq!(allowed(&host, thread), "0", "{thread}");
    }
    assert!(host.ok("assign ps").contains("1 on 0"));
    guests::stop(&guest)?;
    Ok(())
}

/// A guest that tells of its CPUs and powers off.
fn telling(name: &'static str, cpus: &str) -> String {
    Guest::new(name, "poweroff lab.cpus").cpus_as(cpus).to_string()
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_sees_its_cpus_as_its_document_has_them() -> Result<()> {
    let threads = "{count: 4, model: x86-64-v3, topology: {sockets: 1, cores: 2, threads: 2}}";
    let host = Host::intel()
        .file("root/threads.yaml", telling("threads", threads))
        .file("root/gaps.yaml", telling("gaps", "{count: 6, topology: {sockets: 2, cores: 3}}"))
        .file("root/beyond.yaml", telling("beyond", "{count: 1, model: x86-64-v4}"))
        .limit(Duration::from_secs(500))
        .boot()?;
    let run =
        |name: &str| host.run_within(&format!("assign run -f {name}.yaml </dev/null"), GUEST_TIME);
    let beyond = run("beyond")?;
    assert_eq!(beyond.code, 1, "{}", beyond.stderr);
    let told = "beyond: its CPUs cannot be x86-64-v4: those of this host lack avx512bw, ";
    assert!(beyond.stderr.contains(told), "{}", beyond.stderr);

    let output = run("threads")?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    let shared = "threads: overcommitted: 4 vCPUs share the 1 CPU of this host";
    assert!(output.stderr.contains(shared), "{}", output.stderr);
    for line in [
        ", 4 CPUs, ",
        "cpu0: socket 0, core 0, threads 0-1, beside 0-3",
        "cpu1: socket 0, core 0, threads 0-1, beside 0-3",
        "cpu2: socket 0, core 1, threads 2-3, beside 0-3",
        "cpu3: socket 0, core 1, threads 2-3, beside 0-3",
    ] {
        assert!(output.stdout.contains(line), "no {line}: {}", output.stdout);
    }
    let flags = output.stdout.lines().find_map(|line| line.split_once("guest: flags:"));
    let (_, flags) = flags.unwrap_or_else(|| panic!("{}", output.stdout));
    let has = |flag: &str| flags.split_whitespace().any(|one| one == flag);
    assert!(
        ["avx2", "bmi2", "fma", "movbe", "xsave", "abm", "x2apic", "hypervisor"]
            .into_iter()
            .all(has)
    );
    // The lab's CPU has these, and no such level does.
    for beyond in ["aes", "sha_ni", "adx", "pku", "clflushopt", "vaes", "3dnow", "sse4a"] {
        assert!(!has(beyond), "{beyond}: {flags}");
    }
    // A counter that always runs alike is the better clock, and Linux takes it then.
    let clock = if has("nonstop_tsc") && has("constant_tsc") { "tsc" } else { "kvm-clock" };
    let clocks = output.stdout.lines().find(|line| line.contains("guest: clock "));
    let clocks = clocks.unwrap_or_else(|| panic!("{}", output.stdout));
    assert!(clocks.contains(&format!("clock {clock} of ")), "{clocks}");
    assert!(clocks.rsplit(" of ").next().is_some_and(|all| all.contains("kvm-clock")), "{clocks}");

    // Three cores take two bits of an APIC's id: the second socket begins at 4.
    let output = run("gaps")?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    for line in [
        ", 6 CPUs, ",
        "cpu2: socket 0, core 2, threads 2, beside 0-2",
        "cpu3: socket 1, core 0, threads 3, beside 3-5",
        "cpu5: socket 1, core 2, threads 5, beside 3-5",
    ] {
        assert!(output.stdout.contains(line), "no {line}: {}", output.stdout);
    }
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_may_have_sixty_four_cpus() -> Result<()> {
    // All but one are brought up when the kernel lets idle ones sleep: before, each has its tick 250 times a
    // second, and the emulator falls behind that of some 40 for good.
    let many = Guest::new("many", "poweroff maxcpus=1")
        .cpus_as("{count: 64, topology: {sockets: 2, cores: 16, threads: 2}}");
    let limit = Duration::from_secs(340);
    let host = Host::intel().file("root/many.yaml", many.to_string()).limit(limit).boot()?;
    let output = host.run_within("assign run -f many.yaml </dev/null", MANY_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains(", 64 CPUs, "), "{}", output.stdout);
    let shared = "many: overcommitted: 64 vCPUs share the 1 CPU of this host";
    assert!(output.stderr.contains(shared), "{}", output.stderr);
    Ok(())
}
