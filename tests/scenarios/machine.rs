//! The VMM as a machine: kernels, CPUs, power.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::Guest;

const GUEST_TIME: Duration = Duration::from_secs(120);

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn both_kernel_formats_boot_on_one_to_four_cpus_and_power_off() -> Result<()> {
    let mut host = Host::intel().vmlinux();
    let cases = [
        ("one", "/boot/vmlinuz", 1, "1 CPU"),
        ("two", "/boot/vmlinux", 2, "2 CPUs"),
        ("three", "/boot/vmlinuz", 3, "3 CPUs"),
        ("four", "/boot/vmlinux", 4, "4 CPUs"),
    ];
    for (name, kernel, cpus, _) in cases {
        let guest = Guest::new(name, "poweroff").cpus(cpus).kernel(kernel);
        host = host.file(&format!("root/{name}.yaml"), guest.to_string());
    }
    let host = host.boot()?;
    for (name, kernel, _, expected) in cases {
        let command = format!("assign run -f {name}.yaml </dev/null");
        let output = host.run_within(&command, GUEST_TIME)?;
        assert_eq!(output.code, 0, "{kernel}: {}\n{}", output.stdout, output.stderr);
        assert!(output.stdout.contains(&format!(", {expected}, ")), "{kernel}: {}", output.stdout);
        assert!(output.stderr.contains("powered off"), "{kernel}: {}", output.stderr);
    }
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_that_reboots_is_started_again_and_reads_its_console() -> Result<()> {
    let host = Host::intel()
        .bridge()
        .file("root/guest.yaml", Guest::new("web", "reboot").to_string())
        .file("root/shell.yaml", Guest::new("shell", "shell").to_string())
        .boot()?;
    let guest = host.spawn("assign run -f guest.yaml");
    guest.wait_for("guest: rebooting", GUEST_TIME)?;
    let twice = |text: &str| text.matches("guest: up after").count() >= 2;
    for _ in 0..600 {
        if twice(&guest.output_so_far()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(twice(&guest.output_so_far()), "{}", guest.output_so_far());
    // Ctrl-C ends it for good.
    guest.signal(2);
    guest.wait(Duration::from_secs(30))?;
    host.ok("! pidof assign-vmm");

    let shell = host.spawn("assign run -f shell.yaml");
    shell.wait_for("a shell", GUEST_TIME)?;
    // Longer than the UART's buffer: nothing of what is typed may be lost.
    let long = "x".repeat(300);
    shell.stdin(&format!("echo {long} | wc -c\n"));
    shell.wait_for("\n301", Duration::from_secs(30))?;
    shell.stdin("exit\n");
    assert_eq!(shell.wait(Duration::from_secs(30))?.code, 0);
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_kernel_is_unpacked_once_and_again_when_it_was_damaged() -> Result<()> {
    let host = Host::intel()
        .file("root/web.yaml", Guest::new("web", "poweroff").to_string())
        .file("root/odd.yaml", Guest::new("odd", "poweroff").kernel("/tmp/odd").to_string())
        .boot()?;
    let run = |name: &str| {
        let output =
            host.run_within(&format!("assign run -f {name}.yaml </dev/null"), GUEST_TIME)?;
        assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
        anyhow::Ok(output.stderr)
    };
    let kept = || host.ok("cd /var/lib/assign/kernels && ls -li && head -c 4 *");
    assert!(!run("web")?.contains("unpacks itself"));
    let first = kept();
    assert!(first.contains("\x7fELF"), "{first}");
    run("web")?;
    assert_eq!(kept(), first, "the same file was used again");
    host.ok("cd /var/lib/assign/kernels && printf rubbish | dd of=$(ls) conv=notrunc");
    assert!(!run("web")?.contains("unpacks itself"));
    let again = kept();
    assert!(again.contains("\x7fELF") && again != first, "another file: {again}");

    // Its header denies the payload, which the kernel itself does not ask for.
    host.ok("cp /boot/vmlinuz /tmp/odd");
    host.ok("dd if=/dev/zero of=/tmp/odd bs=1 seek=588 count=4 conv=notrunc");
    let told = run("odd")?;
    assert!(told.contains("odd: its kernel unpacks itself at each start: its payload"), "{told}");
    assert_eq!(kept(), again);
    Ok(())
}
