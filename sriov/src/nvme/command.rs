//! The admin commands this project gives, as numbers (NVM Express 1.4).

/// Bytes of every structure that Identify returns (section 5.15).
pub const IDENTIFY_BYTES: usize = 4096;

/// A kind of resource that a controller has, as the Resource Type field names it (section 5.22).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Virtual queues: pairs of a submission and a completion queue.
    Queues,
    /// Virtual interrupts: MSI-X vectors.
    Interrupts,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Queues, Kind::Interrupts];

    fn code(self) -> u32 {
        match self {
            Kind::Queues => 0,
            Kind::Interrupts => 1,
        }
    }
}

/// Which structure Identify returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identify {
    /// The controller's own (CNS 01h).
    Controller,
    /// The capabilities of this primary controller (CNS 14h).
    PrimaryCapabilities(u16),
    /// Up to 127 secondary controllers, from this identifier on (CNS 15h).
    SecondaryList(u16),
}

/// What Virtualization Management does to a controller (section 5.22).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Sets what the primary has of the pool from its next reset on.
    AllocateToPrimary(Kind, u16),
    /// Takes a secondary's resources away and sets it offline.
    Offline,
    /// Sets what an offline secondary has.
    AssignToSecondary(Kind, u16),
    /// Sets a secondary online.
    Online,
}

/// A command's opcode and the two dwords that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Its opcode.
    pub opcode: u8,
    /// Command dword 10.
    pub dword10: u32,
    /// Command dword 11.
    pub dword11: u32,
}

impl From<Identify> for Command {
    /// Opcode 06h; CNS in bits 7 to 0 of dword 10, the controller in bits 31 to 16.
    fn from(what: Identify) -> Command {
        let (cns, controller) = match what {
            Identify::Controller => (0x01, 0),
            Identify::PrimaryCapabilities(controller) => (0x14, controller),
            Identify::SecondaryList(from) => (0x15, from),
        };
        Command { opcode: 0x06, dword10: u32::from(controller) << 16 | cns, dword11: 0 }
    }
}

impl Command {
    /// Virtualization Management, opcode 1Ch: the action in bits 3 to 0 of dword 10, the resource in
    /// bits 10 to 8, the controller in bits 31 to 16, and the number in bits 15 to 0 of dword 11.
    pub fn virtualization(controller: u16, action: Action) -> Command {
        let (code, kind, number) = match action {
            Action::AllocateToPrimary(kind, number) => (0x1, kind.code(), number),
            Action::Offline => (0x7, 0, 0),
            Action::AssignToSecondary(kind, number) => (0x8, kind.code(), number),
            Action::Online => (0x9, 0, 0),
        };
        Command {
            opcode: 0x1c,
            dword10: u32::from(controller) << 16 | kind << 8 | code,
            dword11: number.into(),
        }
    }
}

/// A status other than success: status code type and status code (section 4.6.1), without the bits
/// that say whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(u16);

impl Status {
    /// From the status field as the kernel hands it out; `None` for success.
    pub fn failure(field: u16) -> Option<Status> {
        Some(Status(field & 0x7ff)).filter(|status| status.0 != 0)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let meaning = match self.0 {
            0x001 => "it does not know the command",
            0x002 => "it does not know this form of the command",
            0x11f => "it has no controller of this number",
            0x120 => "the secondary controller is not in a state for it",
            0x121 => "it cannot have so many resources",
            0x122 => "the pool has not so many resources left",
            _ => "it refused",
        };
        write!(f, "{meaning} (NVMe status {:x}h/{:02x}h)", self.0 >> 8, self.0 & 0xff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(command: impl Into<Command>) -> (u8, u32, u32) {
        let command = command.into();
        (command.opcode, command.dword10, command.dword11)
    }

    #[test]
    fn commands_are_what_the_specification_writes() {
        assert_eq!(numbers(Identify::Controller), (0x06, 0x01, 0));
        assert_eq!(numbers(Identify::PrimaryCapabilities(0x41)), (0x06, 0x41_0014, 0));
        assert_eq!(numbers(Identify::SecondaryList(0xffff)), (0x06, 0xffff_0015, 0));
        let to = |action| numbers(Command::virtualization(0x0102, action));
        assert_eq!(to(Action::Online), (0x1c, 0x0102_0009, 0));
        assert_eq!(to(Action::Offline), (0x1c, 0x0102_0007, 0));
        assert_eq!(to(Action::AssignToSecondary(Kind::Queues, 2)), (0x1c, 0x0102_0008, 2));
        assert_eq!(to(Action::AssignToSecondary(Kind::Interrupts, 1)), (0x1c, 0x0102_0108, 1));
        let all = Action::AllocateToPrimary(Kind::Interrupts, u16::MAX);
        assert_eq!(to(all), (0x1c, 0x0102_0101, 0xffff));
    }

    #[test]
    fn a_status_is_told_without_the_bits_around_it() {
        assert_eq!(Status::failure(0), None);
        assert_eq!(Status::failure(0x7800), None, "hints about trying again only");
        let status = Status::failure(0x4120).expect("a failure");
        let told = "the secondary controller is not in a state for it (NVMe status 1h/20h)";
        assert_eq!(status.to_string(), told);
    }
}
