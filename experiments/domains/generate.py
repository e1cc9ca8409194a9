"""Generate clips with exact labels by two simulators: an arm above a table (PyBullet), a walk through Doom (VizDoom).

    pip install '.[simulators]'
    python experiments/domains/generate.py arm runs/arm
    python experiments/domains/generate.py doom runs/doom

The clips are the same for the same version of the simulator: the arm follows a fixed path, the player a seeded one. The
label of every frame is written.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wrp.io.label_map import write_label_map
from wrp.structures import LabelMap

SIZE = (320, 240)
COLORS = ((40, 40, 40), (170, 120, 70), (200, 60, 60), (70, 160, 90), (70, 90, 200), (220, 190, 60), (150, 70, 170))
ARM = ("background", "table", "arm", "duck", "cube", "ball", "tray")
DOOM = ("wall", "floor and ceiling", "figure", "weapon", "item", "decoration")
FIGURES, ITEMS = ("Monster", "Player"), ("Ammo", "Armor", "Health", "Key", "Powerup")

Picture = tuple[np.ndarray, np.ndarray]
"""A frame (H, W, 3) uint8 and its class indices (H, W) uint8."""


def arm(frames: int) -> Iterator[Picture]:
    """Yield the frames of an arm that moves between things on a table, seen by a camera that circles slowly."""
    pybullet, pybullet_data = _simulator("pybullet"), _simulator("pybullet_data")
    pybullet.connect(pybullet.DIRECT)
    pybullet.setAdditionalSearchPath(pybullet_data.getDataPath())
    pybullet.setGravity(0, 0, -10)
    classes = {
        pybullet.loadURDF("plane.urdf", [0, 0, -0.65]): 0,
        pybullet.loadURDF("table/table.urdf", [0.5, 0, -0.65]): 1,
    }
    robot = pybullet.loadURDF("kuka_iiwa/model.urdf", [0, 0, 0], useFixedBase=True)
    classes[robot] = 2
    for name, place, scale, label in (
        ("duck_vhacd.urdf", [0.55, -0.3, 0.05], 2.5, 3),
        ("cube_small.urdf", [0.65, 0.05, 0.05], 2.0, 4),
        ("sphere_small.urdf", [0.5, 0.3, 0.05], 1.5, 5),
        ("tray/traybox.urdf", [0.85, -0.15, 0.0], 0.5, 6),
    ):
        classes[pybullet.loadURDF(name, place, globalScaling=scale)] = label
    projection = pybullet.computeProjectionMatrixFOV(55, SIZE[0] / SIZE[1], 0.1, 5)
    for number in range(frames):
        turn = 2 * math.pi * number / 90
        goal = [0.55 + 0.15 * math.cos(turn), 0.3 * math.sin(turn), 0.25 + 0.12 * math.cos(2 * turn)]
        joints = pybullet.calculateInverseKinematics(robot, 6, goal, [0, 1, 0, 0])
        for joint, angle in enumerate(joints):
            pybullet.setJointMotorControl2(robot, joint, pybullet.POSITION_CONTROL, angle, force=300)
        for _ in range(240 if number == 0 else 8):
            pybullet.stepSimulation()
        view = pybullet.computeViewMatrixFromYawPitchRoll([0.5, 0, 0.1], 1.5, 60 + 0.3 * number, -35, 0, 2)
        seen = pybullet.getCameraImage(*SIZE, view, projection, renderer=pybullet.ER_TINY_RENDERER)
        body = np.reshape(seen[4], SIZE[::-1])
        label = np.zeros(SIZE[::-1], np.uint8)
        for one, value in classes.items():
            label[body == one] = value
        yield np.reshape(seen[2], (*SIZE[::-1], 4))[..., :3].astype(np.uint8), label
    pybullet.disconnect()


def doom(frames: int) -> Iterator[Picture]:
    """Yield the frames of a player who walks and turns at random in a level with monsters and things."""
    vizdoom = _simulator("vizdoom")
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / "deathmatch.cfg"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_labels_buffer_enabled(True)
    game.set_window_visible(False)
    game.set_doom_config_path(os.devnull)  # else it leaves a file in the working directory
    game.set_render_hud(False)
    game.set_render_weapon(False)
    game.set_episode_timeout(0)
    game.set_available_buttons([vizdoom.Button.MOVE_FORWARD_BACKWARD_DELTA, vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    game.set_available_game_variables([vizdoom.GameVariable.POSITION_X, vizdoom.GameVariable.POSITION_Y])
    game.set_seed(1)
    game.add_game_args("+sv_cheats 1")
    game.init()
    game.send_game_command("god")
    generator = np.random.default_rng(1)
    turn, place = 0.0, np.zeros(2)
    for _ in range(frames):
        state = game.get_state()
        is_stuck = np.abs(place - state.game_variables).max() < 1
        place = np.array(state.game_variables)
        label = (state.labels_buffer > 0).astype(np.uint8)  # 0 is a wall, 1 floor and ceiling, more are things
        for thing in state.labels:
            kind = thing.object_category
            value = 2 if kind in FIGURES else 3 if kind == "Weapon" else 4 if kind in ITEMS else 5
            if thing.value > 1:
                label[state.labels_buffer == thing.value] = value
        yield state.screen_buffer, label
        turn = 6.0 if is_stuck else 0.9 * turn + generator.normal(0, 1.2)
        game.make_action([6.0, turn], 2)
    game.close()


def _simulator(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise SystemExit(f"{error}: pip install '.[simulators]'") from error


SCENES = {"arm": (arm, ARM), "doom": (doom, DOOM)}


def write_scene(scene: str, folder: Path, frames: int = 121) -> Path:
    """Write the clip of a scene as a data set, unless it is there, and return its folder."""
    if (folder / "classes.yaml").is_file():
        return folder
    make, names = SCENES[scene]
    for number, (frame, label) in enumerate(make(frames)):
        for kind, picture in (("frames", frame), ("labels", label)):
            path = folder / kind / scene / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    write_label_map(LabelMap(tuple(range(len(names))), names, COLORS[: len(names)]), folder / "classes.yaml")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", choices=list(SCENES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=121)
    options = parser.parse_args()
    write_scene(options.scene, options.folder, options.frames)


if __name__ == "__main__":
    main()
