//! The stacks, and what each of them ships.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::version::{Range, Version};

/// The Debian release that an image starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stack {
    #[serde(rename = "debian-12")]
    Debian12,
    #[serde(rename = "debian-13")]
    Debian13,
}

/// What a language needs beside the base. The order is the order in which they are stacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Toolchain {
    Python,
    Node,
    Ruby,
    Go,
    Php,
    /// A server for files, where the app brings none.
    Files,
}

/// A program that comes from a package registry at a fixed version, in a layer of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tool {
    pub kind: ToolKind,
    /// Digits and dots only; see [`Tool::at`].
    version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToolKind {
    /// A release of Node that no stack has. First, since the others run on it.
    Node,
    Uv,
    Poetry,
    Pipenv,
    Pnpm,
    Yarn,
}

/// Something in the repository that asks for a version of a language.
#[derive(Clone, Debug)]
pub struct Pin {
    pub toolchain: Toolchain,
    /// `.python-version`, ``engines.node` in `package.json``: where it is written.
    pub file: &'static str,
    pub text: String,
    pub range: Range,
}

impl Stack {
    /// The default first, then in the order of preference.
    pub const ALL: [Stack; 2] = [Stack::Debian13, Stack::Debian12];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stack| stack.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Stack::Debian12 => "debian-12",
            Stack::Debian13 => "debian-13",
        }
    }

    /// Debian's own name of the release.
    pub fn suite(self) -> &'static str {
        match self {
            Stack::Debian12 => "bookworm",
            Stack::Debian13 => "trixie",
        }
    }

    /// The version in Debian's archive (packages.debian.org; checked in November 2026). Updates of a stable release
    /// change patch levels only.
    pub fn ships(self, toolchain: Toolchain) -> Option<Version> {
        Some(match (toolchain, self) {
            (Toolchain::Python, Stack::Debian12) => Version(3, 11, 2),
            (Toolchain::Python, Stack::Debian13) => Version(3, 13, 5),
            (Toolchain::Node, Stack::Debian12) => Version(18, 20, 4),
            (Toolchain::Node, Stack::Debian13) => Version(20, 19, 2),
            (Toolchain::Ruby, Stack::Debian12) => Version(3, 1, 2),
            (Toolchain::Ruby, Stack::Debian13) => Version(3, 3, 8),
            (Toolchain::Go, Stack::Debian12) => Version(1, 19, 8),
            (Toolchain::Go, Stack::Debian13) => Version(1, 24, 4),
            (Toolchain::Php, Stack::Debian12) => Version(8, 2, 29),
            (Toolchain::Php, Stack::Debian13) => Version(8, 4, 11),
            (Toolchain::Files, _) => return None,
        })
    }

    pub fn satisfies(self, pin: &Pin) -> bool {
        self.ships(pin.toolchain).is_none_or(|version| pin.range.holds(version))
    }
}

/// The releases of Node beside Debian's, in the order in which they are chosen: those that are maintained for long, the
/// one that packages are used to first (nodejs.org, "Releases"; November 2026). Each with the npm that it came with.
const NODES: [(Version, &str); 4] = [
    (Version(24, 21, 0), "11.19.1"),
    (Version(22, 23, 3), "10.9.9"),
    (Version(26, 10, 0), "11.19.1"),
    (Version(20, 20, 2), "10.9.9"),
];

impl Tool {
    /// The versions of Node that can be had on any stack, the most suitable first.
    pub fn nodes() -> impl Iterator<Item = Version> {
        NODES.into_iter().map(|(version, _)| version)
    }

    /// The most suitable release of Node in a range.
    pub fn node(range: &Range) -> Option<Self> {
        let Version(major, minor, patch) = Self::nodes().find(|version| range.holds(*version))?;
        Self::at(ToolKind::Node, &format!("{major}.{minor}.{patch}"))
    }

    /// `None` unless the version is digits and dots: it becomes part of a command.
    pub fn at(kind: ToolKind, version: &str) -> Option<Self> {
        let digits = |part: &str| !part.is_empty() && part.len() < 8 && part.bytes().all(|b| b.is_ascii_digit());
        let valid = version.split('.').count() == 3 && version.split('.').all(digits);
        valid.then(|| Self { kind, version: version.to_owned() })
    }

    /// The version that Flyloft was tested with.
    pub fn pinned(kind: ToolKind) -> Self {
        let version = match kind {
            ToolKind::Node => "24.21.0",
            ToolKind::Uv => "0.13.9",
            ToolKind::Poetry => "2.5.1",
            ToolKind::Pipenv => "2026.10.3",
            ToolKind::Pnpm => "9.15.9",
            ToolKind::Yarn => "1.22.22",
        };
        Self { kind, version: version.to_owned() }
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// The first Node that it runs on, where that is newer than what a stack ships (`engines` of pnpm 11, and of no
    /// other).
    pub fn needs_node(&self) -> Option<Version> {
        (self.kind == ToolKind::Pnpm && self.version.starts_with("11.")).then_some(Version(22, 13, 0))
    }

    pub fn name(&self) -> &'static str {
        match self.kind {
            ToolKind::Node => "node",
            ToolKind::Uv => "uv",
            ToolKind::Poetry => "poetry",
            ToolKind::Pipenv => "pipenv",
            ToolKind::Pnpm => "pnpm",
            ToolKind::Yarn => "yarn",
        }
    }

    /// What its package manager is asked for on this architecture, as Rust names it.
    pub fn packages(&self, architecture: &str) -> Vec<String> {
        let named = |name: &str| vec![format!("{name}@{}", self.version)];
        match self.kind {
            ToolKind::Uv | ToolKind::Poetry | ToolKind::Pipenv => vec![format!("{}=={}", self.name(), self.version)],
            ToolKind::Node => {
                let mut packages = named(&format!("node-linux-{}", node_architecture(architecture)));
                let npm = NODES.iter().find(|(version, _)| Some(*version) == Version::parse(&self.version));
                packages.extend(npm.map(|(_, npm)| format!("npm@{npm}")));
                packages
            }
            // Yarn's own package stops at 1.22; its later versions are published under another name.
            ToolKind::Yarn if !self.version.starts_with("1.") => named("@yarnpkg/cli-dist"),
            ToolKind::Pnpm | ToolKind::Yarn => named(self.name()),
        }
    }

    /// Which language's package manager brings it.
    pub fn toolchain(&self) -> Toolchain {
        match self.kind {
            ToolKind::Uv | ToolKind::Poetry | ToolKind::Pipenv => Toolchain::Python,
            ToolKind::Node | ToolKind::Pnpm | ToolKind::Yarn => Toolchain::Node,
        }
    }
}

/// As Node itself calls them (`process.arch`).
fn node_architecture(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Toolchain::Python => "Python",
            Toolchain::Node => "Node",
            Toolchain::Ruby => "Ruby",
            Toolchain::Go => "Go",
            Toolchain::Php => "PHP",
            Toolchain::Files => "static files",
        })
    }
}
