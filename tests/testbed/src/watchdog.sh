# Removes a directory of the testbed and kills every process in it. The removal begins when the
# creator of the directory ends, or closes its end of the pipe.
#
# usage: sh -c "$this" watchdog DIR, with the read end of the creator's pipe as standard input. The
# pipe closes whenever the creator ends, even by SIGKILL. The word "keep" on the pipe means that the
# directory and its processes remain.
#
# A process belongs to the testbed only if its working directory is DIR or below. The number in a
# pid file is not sufficient, because another process may have this number by now.

trap '' HUP INT TERM
dir=$1
case $dir in /?*/?*) ;; *) exit 2 ;; esac

while read -r word; do
    [ "$word" = keep ] && exit 0
done

if [ -d /proc/self ]; then
    ours() { find /proc -maxdepth 2 -name cwd \( -lname "$dir" -o -lname "$dir/*" \) 2>/dev/null | cut -d / -f 3; }
else
    ours() { lsof -d cwd -F pn 2>/dev/null | awk -v dir="$dir" '
        /^p/ { pid = substr($0, 2) }
        /^n/ { cwd = substr($0, 2); if (cwd == dir || index(cwd, dir "/") == 1) print pid }'; }
fi
is_ours() { ours | grep -qx "$1"; }

# A stopped process handles only SIGKILL until it continues.
for pid in $(ours); do kill -CONT "$pid" 2>/dev/null; done

# Request a shutdown first, because a killed postmaster does not release its shared memory.
pidfile=$dir/data/postmaster.pid
if [ -f "$pidfile" ]; then
    pid=$(sed -n 1p "$pidfile")
    if [ "$(sed -n 2p "$pidfile")" = "$dir/data" ] && is_ours "$pid"; then
        kill -QUIT "$pid" 2>/dev/null
        tries=0
        while kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ]; do
            sleep 0.03
            tries=$((tries + 1))
        done
    fi
fi

tries=0
while pids=$(ours) && [ -n "$pids" ] && [ $tries -lt 100 ]; do
    for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
    sleep 0.02
    tries=$((tries + 1))
done

# A killed postmaster leaves its pid file behind. The seventh line of this file contains the ID of
# the shared memory segment.
if [ -f "$pidfile" ]; then
    segment=$(sed -n 7p "$pidfile" | awk '{ print $2 }')
    [ -n "$segment" ] && ipcrm -m "$segment" 2>/dev/null
fi

tries=0
while ! rm -rf "$dir" 2>/dev/null && [ $tries -lt 50 ]; do
    sleep 0.05
    tries=$((tries + 1))
done
