//! Examples of each verb: shown by `--help` and in the manual pages. The tests parse every one of
//! them, so that none tells of an option that is gone.

/// A command line, and what it does.
pub type Example = (&'static str, &'static str);

/// The examples of a verb by its name, such as `vf create`.
pub fn of(verb: &str) -> &'static [Example] {
    match verb {
        "" => &[
            ("assign doctor", "Is this host ready?"),
            ("assign devices", "What is there, who has it, who could."),
            ("assign vf create eth0 4", "Make four VFs of the card behind eth0."),
            ("assign plan -f edge-node.yaml", "What would have to change for a policy."),
            ("assign run -f web-1.yaml", "Start a guest."),
        ],
        "doctor" => &[
            ("assign doctor", "Is this host ready?"),
            ("assign doctor eth0 01:10.0", "What keeps these devices from a guest."),
        ],
        "host" => &[("assign host -o json", "Everything that was found out, for programs.")],
        "devices" => &[
            ("assign devices ethernet", "Only network cards."),
            ("assign devices 8086:10ca igbvf", "Only these ids with this driver."),
            ("assign devices --tree", "What hangs below what."),
        ],
        "show" => &[("assign show eth0", "The device behind eth0.")],
        "groups" => &[
            ("assign groups", "All IOMMU groups."),
            ("assign groups 01:10.0 --regions", "The group of a device, with what it reserves."),
        ],
        "topology" => &[
            ("assign topology", "The tree of this host."),
            ("assign topology --format svg -O host.svg", "A picture of it."),
        ],
        "snapshot" => &[
            ("assign snapshot --note updated", "Everything known of this host."),
            ("assign --root host.json devices", "Look at what was saved, here or elsewhere."),
        ],
        "vf create" => &[("assign vf create eth0 4 --driver vfio-pci", "Four VFs for guests.")],
        "vf set" => &[
            ("assign vf set eth0/0 --mac 02:00:00:00:00:01 --vlan 100:3", "For one guest."),
            ("assign vf set eth0/0 eth0/1 --trust on --max-rate 500", "The same for two VFs."),
            ("assign vf set eth0/2 --mac none --vlan none", "As it was when it was made."),
        ],
        "vf list" => &[("assign vf list eth0", "The VFs of the card behind eth0.")],
        "vf destroy" => &[
            ("assign vf destroy eth0", "All VFs of the card behind eth0."),
            ("assign vf destroy eth0 --drain=60", "Those of guests too, once these have ended."),
        ],
        "bind" => &[
            ("assign bind 01:10.0 01:10.2", "Two VFs to vfio-pci, or its variant for them."),
            ("assign bind --group 01:00.0", "A graphics card with its audio."),
        ],
        "release" => &[("assign release 01:10.0", "Back to the driver it had before.")],
        "events" => &[
            ("assign events eth0", "What happens to the device behind eth0."),
            ("assign events --count 1 --for 10 01:10.0", "Wait up to 10 s for one event."),
            ("assign events --guests -o json", "What happens to guests, an object a line."),
            ("assign events --guest web-1 --past", "What has happened to this guest."),
        ],
        "prove" => &[("assign prove 01:10.0", "Aim the DMA of an NVMe VF at memory not its own.")],
        "validate" => &[("assign validate edge-node.yaml guests/", "A file and a folder.")],
        "schema" => &[
            ("assign schema >schema.json", "For the editor line of a policy's file."),
            ("assign schema control -o yaml", "What a running guest can be asked, and how."),
            ("assign schema events", "What each line of `assign events --guests -o json` holds."),
        ],
        "plan" => &[("assign plan -f edge-node.yaml", "What applying it would change.")],
        "apply" => &[
            ("assign apply -f edge-node.yaml", "`assign remove` takes it back."),
            ("assign apply --all", "Every policy of /etc/assign, as at each boot."),
        ],
        "diff" => &[
            (
                "assign diff",
                "Against all policies that were applied; exit code 4 where it differs.",
            ),
            ("assign diff -f edge-node.yaml -o json", "Against a file, for programs."),
        ],
        "remove" => &[
            ("assign remove edge-node", "Take back what applying it changed."),
            ("assign remove -f edge-node.yaml", "The same, by its file."),
        ],
        "recover" => &[
            ("assign recover", "After a crash: nothing stays half done."),
            ("assign recover --finish", "Make what is left of an interrupted apply."),
        ],
        "status" => &[
            ("assign status", "Pools, devices and who has them."),
            ("assign status -o json", "With every condition, for programs."),
        ],
        "run" => &[
            ("assign run -f web-1.yaml", "Ctrl-] on its console stops the guest."),
            ("assign run -f web-1.yaml --detach", "Returns when it runs; `assign console web-1`."),
            ("assign run -f web-1.yaml --timeline", "What its start spends time on."),
        ],
        "completions" => &[
            ("source <(assign completions bash)", "For this shell."),
            ("assign completions fish | source", "The same in fish."),
        ],
        "stop" => &[
            ("assign stop web-1", "Its power button, then 30 s."),
            ("assign stop web-1 --timeout 300", "A guest that takes long to shut down."),
            ("assign stop web-1 --now", "As if its power were cut."),
        ],
        "reset" => &[("assign reset web-1", "A guest that answers to nothing else.")],
        "console" => &[
            ("assign console web-1", "Ctrl-] leaves it, and the guest goes on."),
            ("assign console web-1 --read-only --lines 0", "What it prints from now on."),
            ("assign console web-1 --log", "What it has printed, also when it is gone."),
            ("assign console web-1 --port hvc", "A port of its document, instead."),
        ],
        "balloon" => &[
            ("assign balloon web-1 512MiB", "It keeps so much, and gives the rest back."),
            ("assign balloon web-1 all", "It has all of its memory again."),
        ],
        "attach" => &[
            ("assign attach web-1 01:10.2", "A device that is bound to vfio-pci."),
            ("assign attach web-1 --pool lan", "A free device of a pool."),
        ],
        "detach" => &[
            ("assign detach web-1 01:10.2", "Its driver in the guest lets go first."),
            ("assign detach web-1 01:10.2 --timeout 5 --force", "After 5 s, whatever it does."),
        ],
        "stats" => &[
            ("assign stats web-1", "Does its traffic go past user space?"),
            ("assign stats web-1 -o json", "By vCPU and vector, with all that KVM counts."),
        ],
        "man" => &[("assign man /usr/local/share/man/man1", "So that `man assign` finds them.")],
        _ => &[],
    }
}

/// What there is to know of a verb beside its options: paragraphs, for `--help` and the manual page.
pub fn prose(verb: &str) -> &'static [&'static str] {
    match verb {
        "vf create" => &[
            "A PF that has another number of VFs loses them first, as the kernel knows no other way: \
             that is asked about, and refused while one of them is in use. Should the new ones not \
             come, the old ones come back with their drivers and settings.",
            DRAINING,
        ],
        "vf destroy" => &[DRAINING],
        "pause" => &[
            "Only the CPUs are held, between two instructions: devices go on, passed-through ones into \
             the guest's memory too. `assign resume` lets them go on, `assign stop` does so first. The \
             guest's clock goes on; its watchdogs are told.",
        ],
        "balloon" => &[
            "The guest's document must say `memory: {balloon: true}`, and its system have a driver: Linux's \
             virtio_balloon. The command asks and does not wait; `assign stats` tells how far it is. A \
             guest gives what it can do without, and takes it back by itself before it ends programs for \
             lack of memory. What was asked holds over its reboots.",
        ],
        "run" => &[
            "With --detach the command returns as soon as the guest runs with its devices, with \
             exit code 0, or with the reason why it does not. The guest goes on in a session of its own, \
             until it powers off or `assign stop` ends it.",
            "What a guest prints on its console is kept in guests/NAME/console.log of the state directory, \
             what happens to it in events.log beside it, and for programs in events.jsonl: the last 1 \
             to 2 MiB of each.",
        ],
        "events" => &[
            "What happens to guests (--guests) is told as their launchers write it down: that a guest \
             runs, is paused, gets or loses a device, falls back, ends and how. With --past it is told \
             from the first event that is kept, and with --initial too, which then goes on with what \
             happens. No event is told twice. Where some may be missing, since more came than is kept, \
             an event of the kind events-lost says so.",
        ],
        "console" => &[
            "Any number of terminals up to 16 may have it, beside that of `assign run`; each may type. \
             What is piped in is typed to the guest, and what it prints is shown until it ends. Over \
             a reboot of the guest it stays.",
            "One of its ports (--port) is one program's at a time, and is closed when the guest ends or \
             reboots.",
        ],
        "stats" => &[
            "Exits are counted where they are handled. One to user space, to assign-vmm, costs most: \
             with a device of its own a guest has them while it starts, and then hardly any, whatever \
             its traffic. What is handled in the kernel is told by KVM (Linux 5.14 or newer): halts, \
             timers, interrupts.",
            "Interrupts of a passed-through device are the host's count, of the vectors that the guest \
             has enabled now, since it enabled them. Those of a virtio device are counted by \
             assign-vmm.",
        ],
        "prove" => &[
            "The device is told to write, and where it can to read, memory that is mapped for it; then \
             what is before and behind that, at the memory's physical address, and the memory itself \
             once it was taken away. It is isolated if the first arrives, nothing else does, and the \
             kernel tells of each fault. Where the kernel holds that back, a step takes some seconds.",
            "It is known how to tell that to NVMe controllers and their VFs, of which no namespace is \
             touched, and to QEMU's edu. The device must be bound to vfio-pci, and no guest may have \
             it.",
        ],
        "vf set" => &[
            "A VF is named by its PF and number (eth0/0, 0000:01:00.0/0), its address, or its own \
             interface. Each setting is made alone and read back; should one fail, those made before \
             it are taken back. What the PF's driver does not know is an error that names the \
             setting and the driver.",
            "The VF of a running guest is the guest's: of its settings only the rates may be changed, \
             since it goes on under them. The same holds for a VF that the host itself uses.",
        ],
        _ => &[],
    }
}

const DRAINING: &str = "\
VFs that guests have are taken from none of them. With --drain these guests are asked to end, and \
waited for; should one of them not have ended in time, nothing is done to the VFs.";

/// The examples of a verb as `--help` shows them.
pub fn help(verb: &str) -> Option<String> {
    let examples = of(verb);
    let widest = examples.iter().map(|(line, _)| line.len()).max()?;
    let line = |(line, what): &Example| match widest {
        0..=38 => format!("  {line:widest$}  {what}"),
        _ => format!("  {line}\n      {what}"),
    };
    let title = if examples.len() == 1 { "Example:" } else { "Examples:" };
    let lines: Vec<String> = examples.iter().map(line).collect();
    Some(format!("{title}\n{}", lines.join("\n")))
}
