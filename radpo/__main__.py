"""`python -m radpo` is `radpo`."""

from __future__ import annotations

from radpo.cli.guard import main

if __name__ == "__main__":
    main()
