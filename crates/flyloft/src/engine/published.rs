//! A port of a container that is reached from outside of this machine.

use flyloft_core::port::Protocol;

use super::ContainerId;

/// A port of the host that leads to one of a container.
///
/// Where it is `straight`, whoever comes from outside goes to the container without a detour, in each family in which
/// something listens there. Everybody else comes to whatever listens at the port on the host: who comes from the host
/// itself, and all newcomers where it is not straight. Those who have come straight stay where they are as long as the
/// port is among those that are published, whether the container runs or is frozen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    pub container: ContainerId,
    pub protocol: Protocol,
    /// Of the host.
    pub host: u16,
    /// Of the container.
    pub port: u16,
    pub straight: bool,
}
