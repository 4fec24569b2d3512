//! PID 1 of a microVM with a Linux kernel: mounts the image, runs its app, and serves the control protocol.
//!
//! One thread and one poll loop do everything but network health checks, so that nothing races: a process's end, its
//! last output and its exit report come in that order. It owns the guest; it knows nothing of images' making, nor of
//! who asks. It never exits: the guest powers off instead, also when this program panics.
#![deny(unsafe_code)]

mod boot;
mod cgroup;
mod clock;
mod console;
mod etc;
mod exec;
mod health;
mod names;
mod netlink;
mod output;
mod port;
mod power;
mod presence;
mod process;
mod requests;
mod root;
mod secrets;
mod supervisor;
mod users;
mod volumes;

use console::say;

fn main() {
    if std::process::id() != 1 {
        say_to_person();
        std::process::exit(2);
    }
    std::panic::set_hook(Box::new(|panic| {
        say(format_args!("this is a bug: {panic}"));
        power::off();
    }));
    if let Err(why) = run() {
        say(format_args!("{why}; powering off"));
    }
    power::off();
}

#[expect(clippy::print_stderr, reason = "run by hand, the terminal is the only place to talk to")]
fn say_to_person() {
    eprintln!("holm-linux-init: this is PID 1 of a Holm guest; it does nothing on a running system");
}

fn run() -> Result<(), String> {
    let mut marks = boot::Marks::default();
    marks.set("init");
    boot::first_mounts();
    // The kernel's out-of-memory killer shall take the app, never this process.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    // As in containers: an app need not be root to listen on port 80.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let uevents = boot::Uevents::open().map_err(|e| format!("cannot hear device events: {e}"))?;
    boot::load_modules();
    marks.set("modules");
    if let Err(error) = netlink::bring_up_loopback() {
        say(format_args!("{error}"));
    }
    let path = uevents
        .wait_for(boot::find_control_port)
        .ok_or_else(|| format!("no virtio-serial port named {}", holm_guest_control::PORT_NAME))?;
    let port = port::Port::open(&path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    marks.set("control-port");
    let image = match uevents.wait_for(boot::find_root_device) {
        Some(_) => root::mount_image().map_err(|e| e.to_string()),
        None => Err(root::RootError::NoDevice.to_string()),
    };
    marks.set("image");
    let mut supervisor = supervisor::Supervisor::new(port, marks, image).map_err(|e| format!("cannot start: {e}"))?;
    supervisor.run();
    Ok(())
}
