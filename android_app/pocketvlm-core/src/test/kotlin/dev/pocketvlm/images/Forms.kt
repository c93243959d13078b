package dev.pocketvlm.images

import dev.pocketvlm.Case
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Preprocessing
import dev.pocketvlm.bundle.Tiling

internal fun gridOf(value: Any?): Grid = (value as List<*>).map { (it as Long).toInt() }.let { Grid(it[0], it[1]) }

internal fun sizeOf(value: Any?): Size = gridOf(value).let { Size(it.across, it.down) }

internal fun tilingOf(case: Case) = Tiling(
    case.int("tile_size"),
    case.text("strategy"),
    case.list("candidates").map(::gridOf),
    case.double("alpha"),
    case.text("thumbnail"),
    case.flag("thumbnail_of_single_tile"),
    case.intOrNull("longest_edge"),
    case["min_pixels"] as Long?,
    case["max_pixels"] as Long?,
    case.intOrNull("part"),
)

internal fun preprocessingOf(case: Case) = Preprocessing(
    tilingOf(case),
    case.text("resize_filter"),
    case.ints("pad_color"),
    case.double("rescale"),
    case.doubles("mean"),
    case.doubles("std"),
)
