"""Agents: their data are what they do, and come from the module itself."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.utils.data import DataLoader, IterableDataset

from zoo.trainings.training import Training


class Walk:
    """A walk along a line, to be kept near its middle; draws with numpy."""

    def __init__(self) -> None:
        self.place, self.speed, self.steps = 0.0, 0.0, 0

    def reset(self) -> np.ndarray:
        self.place, self.speed, self.steps = float(np.random.uniform(-0.1, 0.1)), 0.0, 0
        return self.observation()

    def observation(self) -> np.ndarray:
        return np.array([self.place, self.speed, abs(self.place), self.steps / 20], dtype=np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        self.speed += (action - 0.5) * 0.2 + float(np.random.randn()) * 0.02
        self.place, self.steps = self.place + self.speed, self.steps + 1
        return self.observation(), 1.0 - abs(self.place), abs(self.place) > 1 or self.steps >= 20


class Experience(NamedTuple):
    state: Any
    action: Any
    reward: Any
    done: Any
    new_state: Any


class Replayed(IterableDataset):
    """Samples of a buffer that grows while they are trained on."""

    def __init__(self, buffer: deque[Experience], size: int = 64) -> None:
        self.buffer, self.size = buffer, size

    def __iter__(self) -> Iterator[Experience]:
        for i in random.sample(range(len(self.buffer)), self.size):
            yield self.buffer[i]


class DQN(pl.LightningModule):
    """Plays a step in each training step, and now and then copies its network into the target."""

    def __init__(self, sync_rate: int = 4, gamma: float = 0.95) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2))
        self.target_net = copy.deepcopy(self.net)
        self.env, self.buffer, self.total_reward = Walk(), deque(maxlen=200), 0.0
        self.state = self.env.reset()
        for _ in range(80):
            self.play_step(epsilon=1.0)

    @torch.no_grad()
    def play_step(self, epsilon: float) -> float:
        if np.random.random() < epsilon:
            action = int(np.random.randint(2))
        else:
            action = int(self.net(torch.from_numpy(self.state)[None]).argmax(1))
        new_state, reward, done = self.env.step(action)
        self.buffer.append(Experience(self.state, action, np.float32(reward), done, new_state))
        self.state = self.env.reset() if done else new_state
        return reward

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, nb_batch: int) -> Tensor:
        self.total_reward += self.play_step(max(0.05, 0.9 - self.global_step / 16))
        states, actions, rewards, dones, next_states = batch
        values = self.net(states).gather(1, actions.long()[:, None])[:, 0]
        with torch.no_grad():
            following = self.target_net(next_states).max(1)[0]
            following[dones] = 0.0
        loss = F.smooth_l1_loss(values, following * self.hparams.gamma + rewards)
        if self.global_step % self.hparams.sync_rate == 0:
            self.target_net.load_state_dict(self.net.state_dict())
        self.log_dict({"total_reward": torch.tensor(self.total_reward), "train_loss": loss})
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), lr=3e-3)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Replayed(self.buffer), batch_size=8)


class ExperienceSource(IterableDataset):
    """Whatever a function generates."""

    def __init__(self, generate: Callable[[], Iterator[Any]]) -> None:
        self.generate = generate

    def __iter__(self) -> Iterator[Any]:
        return self.generate()


class PPO(pl.LightningModule):
    """Its loader plays with the networks that are trained; an actor and a critic are stepped by hand."""

    def __init__(self, gamma: float = 0.95) -> None:
        super().__init__()
        self.automatic_optimization, self.gamma = False, gamma
        self.actor = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(4, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1))
        self.env = Walk()
        self.state = torch.from_numpy(self.env.reset())

    def forward(self, x: Tensor) -> tuple[Categorical, Tensor, Tensor]:
        pi = Categorical(logits=self.actor(x))
        return pi, pi.sample(), self.critic(x)

    def trajectories(self) -> Iterator[tuple[Tensor, ...]]:
        steps = []
        for _ in range(64):
            with torch.no_grad():
                pi, action, value = self(self.state)
            state, reward, done = self.env.step(int(action))
            steps.append([self.state, action, pi.log_prob(action), value[0], reward, done])
            self.state = torch.from_numpy(self.env.reset() if done else state)
        total = 0.0
        for step in reversed(steps):
            total = step[4] + self.gamma * total * (not step[5])
            step.append(torch.tensor(total - float(step[3]), dtype=torch.float32))
            step[4] = torch.tensor(total, dtype=torch.float32)
        yield from ((s[0], s[1], s[2], s[4], s[6]) for s in steps)

    def training_step(self, batch: Any) -> None:
        state, action, old_logp, qval, adv = batch
        optimizer_actor, optimizer_critic = self.optimizers()
        adv = (adv - adv.mean()) / (adv.std() + 1e-6)
        for _ in range(2):
            pi, _, value = self(state)
            ratio = (pi.log_prob(action) - old_logp).exp()
            loss_actor = -torch.min(ratio * adv, ratio.clamp(0.8, 1.2) * adv).mean() - 0.01 * pi.entropy().mean()
            optimizer_actor.zero_grad()
            self.manual_backward(loss_actor)
            self.clip_gradients(optimizer_actor, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
            optimizer_actor.step()
            loss_critic = F.mse_loss(value[:, 0], qval)
            optimizer_critic.zero_grad()
            self.manual_backward(loss_critic)
            optimizer_critic.step()
        self.log_dict({"loss_actor": loss_actor, "loss_critic": loss_critic})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.actor.parameters(), 3e-3), torch.optim.Adam(self.critic.parameters(), 1e-2)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(ExperienceSource(self.trajectories), batch_size=8)


TRAININGS = [
    Training("dqn", "a stream from a buffer, a target that is copied now and then", DQN, lambda: None, resumes=False),
    Training("ppo", "a loader that plays, two optimizers by hand", PPO, lambda: None, resumes=False),
]
