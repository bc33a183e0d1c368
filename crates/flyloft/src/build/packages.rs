//! The Debian packages of each toolchain: what an app needs to run, and what only building it needs.

use flyloft_core::plan::{Stack, Toolchain};

/// In the names of layers and caches.
pub fn name(toolchain: Toolchain) -> &'static str {
    match toolchain {
        Toolchain::Python => "python",
        Toolchain::Node => "node",
        Toolchain::Ruby => "ruby",
        Toolchain::Go => "go",
        Toolchain::Php => "php",
        Toolchain::Files => "files",
    }
}

/// Beside Debian's essential packages.
pub fn base() -> Vec<String> {
    names("ca-certificates media-types netbase tzdata")
}

/// What is in the image that runs. Libraries are those that the common packages without wheels, gems or prebuilt
/// modules are linked against: PostgreSQL, MySQL, XML, images.
pub fn run(toolchain: Toolchain, stack: Stack) -> Vec<String> {
    let mut packages = names(match toolchain {
        Toolchain::Python => "python3 libpq5 libmariadb3 libxslt1.1 libjpeg62-turbo libsqlite3-0",
        Toolchain::Node => "nodejs npm",
        Toolchain::Ruby => "ruby ruby-bundler libpq5 libmariadb3 libxslt1.1 libsqlite3-0 libyaml-0-2",
        Toolchain::Go => "",
        Toolchain::Php => {
            "php-cli php-bcmath php-curl php-gd php-intl php-mbstring php-mysql php-pgsql php-sqlite3 php-xml php-zip"
        }
        Toolchain::Files => "lighttpd",
    });
    if (toolchain, stack) == (Toolchain::Python, Stack::Debian12) {
        // A package of its own until Python dropped it.
        packages.push("python3-distutils".to_owned());
    }
    packages
}

/// What building needs on top of [`run`].
pub fn build(toolchain: Toolchain) -> Vec<String> {
    const COMPILERS: &str = "gcc g++ make libc6-dev pkg-config git patch";
    let own = match toolchain {
        Toolchain::Python => {
            "python3-dev python3-pip python3-venv libpq-dev default-libmysqlclient-dev libffi-dev libssl-dev \
             libxml2-dev libxslt1-dev libjpeg-dev zlib1g-dev"
        }
        Toolchain::Node => "python3 libnode-dev",
        Toolchain::Ruby => {
            "ruby-dev rake libpq-dev default-libmysqlclient-dev libffi-dev libssl-dev libxml2-dev libxslt1-dev \
             libsqlite3-dev libyaml-dev zlib1g-dev"
        }
        Toolchain::Go => "golang-go",
        Toolchain::Php => return names("composer git unzip"),
        Toolchain::Files => return Vec::new(),
    };
    let mut packages = names(COMPILERS);
    packages.extend(names(own));
    packages
}

fn names(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}
