from typing import Any
class Bridge:
    def __init__(self, h, c, t): self.hypervisor_id=h; self.s=None
    def attach(self, s): self.s=s
    def detach(self, r): self.s=None
    @property
    def connected(self): return self.s is not None
    def state(self): return {"connected": self.connected, "error": "", "version": self.s and self.s.version}
    def put(self,w): pass
    def complete(self): pass
    def pending(self,o): return False
    def error(self,o): return ""
