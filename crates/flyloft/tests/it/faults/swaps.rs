//! Sleep on each kind of swap. It is the machine's, so nothing else that sleeps is tried meanwhile (`.config/nextest.toml`).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;

const ZRAM: &str = "/sys/class/zram-control";
const ZSWAP: &str = "/sys/module/zswap/parameters/enabled";

/// Swap of the test's own, before all other.
struct Swap(PathBuf);

impl Swap {
    /// A file.
    fn on_disk() -> Self {
        let path = PathBuf::from("/var/lib/flyloft-test/swap-of-a-test");
        let _ = fs::remove_file(&path);
        run(Command::new("fallocate").args(["--length", "256MiB"]).arg(&path));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        Self::on(path)
    }

    /// A device of compressed memory.
    fn on_zram() -> Self {
        let number = fs::read_to_string(Path::new(ZRAM).join("hot_add")).unwrap();
        let device = format!("zram{}", number.trim());
        fs::write(format!("/sys/block/{device}/disksize"), "256M").unwrap();
        let path = Path::new("/dev").join(device);
        wait_for("the device", || path.exists().then_some(()));
        Self::on(path)
    }

    fn on(path: PathBuf) -> Self {
        run(Command::new("mkswap").arg(&path));
        run(Command::new("swapon").args(["--priority", "32767"]).arg(&path));
        Self(path)
    }

    fn used(&self) -> u64 {
        let table = fs::read_to_string("/proc/swaps").unwrap();
        let line = table.lines().find(|line| line.starts_with(self.0.to_str().unwrap())).unwrap();
        line.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        run(Command::new("swapoff").arg(&self.0));
        match self.0.to_string_lossy().strip_prefix("/dev/zram") {
            Some(number) => fs::write(Path::new(ZRAM).join("hot_remove"), number).unwrap(),
            None => fs::remove_file(&self.0).unwrap(),
        }
    }
}

/// zswap switched off, if there is any, until this goes.
struct WithoutZswap(Option<String>);

impl WithoutZswap {
    fn begin() -> Self {
        let before = fs::read_to_string(ZSWAP).ok();
        if before.is_some() {
            fs::write(ZSWAP, "N").unwrap();
        }
        Self(before)
    }
}

impl Drop for WithoutZswap {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            fs::write(ZSWAP, before.trim()).unwrap();
        }
    }
}

/// Sleeps at each depth, and answers afterwards. Gives the bytes compressed and those on a disk, each time.
fn slept(flyloft: &Flyloft, env: &str) -> Vec<(u64, u64)> {
    let depths: [&[&str]; 3] = [&["sleep", env], &["sleep", "--deep", env], &["sleep", env]];
    let slept = depths.map(|command| {
        flyloft.ok(command);
        let why = flyloft.why(env);
        assert_eq!(why["state"], "asleep", "{why}");
        let bytes = |place: &str| why["memory"][place].as_u64().unwrap_or_default();
        let held = (bytes("compressed"), bytes("disk"));
        assert_eq!(flyloft.get(env, "/").body, "hello");
        held
    });
    slept.into()
}

#[test]
fn what_sleeps_where_nothing_is_compressed_is_on_the_disk() {
    const ENV: &str = "it-plain-swap/main";
    let (_without, _swap) = (WithoutZswap::begin(), Swap::on_disk());
    let flyloft = Flyloft::start();
    flyloft.repository("it-plain-swap", &borrowed(&app("hello"))).pushed(&["main"]);
    for (compressed, disk) in slept(&flyloft, ENV) {
        assert!(compressed == 0 && disk > 1 << 20, "{compressed} bytes compressed, {disk} on the disk");
    }
    flyloft.ok(&["destroy", "it-plain-swap", "--yes"]);
}

#[test]
fn what_sleeps_on_zram_is_compressed_at_either_depth() {
    const ENV: &str = "it-zram/main";
    if !Path::new(ZRAM).exists() {
        eprintln!("not tried: the kernel has no zram");
        return;
    }
    let (_without, _swap) = (WithoutZswap::begin(), Swap::on_zram());
    let flyloft = Flyloft::start();
    flyloft.repository("it-zram", &borrowed(&app("hello"))).pushed(&["main"]);
    for (compressed, disk) in slept(&flyloft, ENV) {
        assert!(compressed > 1 << 20 && disk < compressed / 8, "{compressed} bytes compressed, {disk} on the disk");
    }
    flyloft.ok(&["destroy", "it-zram", "--yes"]);
}

#[test]
fn what_comes_back_into_memory_when_swap_is_turned_off_goes_to_what_swap_there_is() {
    const ENV: &str = "it-swap/main";
    let others = fs::read_to_string("/proc/swaps").unwrap().lines().count() > 1;
    assert!(others, "this test needs swap beside its own: run `script/setup --test`");
    let flyloft = Flyloft::start();
    flyloft.repository("it-swap", &borrowed(&app("hello"))).pushed(&["main"]);
    let swap = Swap::on_disk();
    flyloft.ok(&["sleep", "--deep", ENV]);
    let before = moved(&flyloft, ENV);
    assert!(before > 1 << 20 && swap.used() > 1 << 20, "{before} bytes are moved");
    drop(swap);
    // Each time it is asked, the kernel is.
    wait_for("it to be moved again", || (moved(&flyloft, ENV) > before / 2).then_some(()));
    assert_eq!(flyloft.get(ENV, "/").body, "hello");
    flyloft.ok(&["destroy", "it-swap", "--yes"]);
}
