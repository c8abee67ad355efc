#!/bin/sh
# See LICENSE file for copyright and license details.
# fence_scsi, in guests and beside them; see ../vm/case/agents.sh.
cd "$(dirname "$0")/../.." || exit
exec test/vm/boot agents test/vm/lib-agents.sh=/lib-agents.sh
