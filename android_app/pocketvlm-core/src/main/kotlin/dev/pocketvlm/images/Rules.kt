package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Tiling
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.max
import kotlin.math.min

/** Pixels. */
internal data class Size(val width: Int, val height: Int)

/** Relaxed aspect-ratio matching, Algorithm 1 of arXiv 2411.10640: larger grids first. */
internal fun relaxed(size: Size, tiling: Tiling): Grid {
    var best = Grid(1, 1)
    var bestEffective = 0.0
    var bestWasted = Double.POSITIVE_INFINITY
    val grids = tiling.candidates.distinct().sortedWith(compareBy({ -it.across }, { -it.down }))
    for (grid in grids) {
        val fitted = fittedSize(size, grid, tiling.tileSize, roundUp = false)
        val effective = min(fitted.width.toLong() * fitted.height, size.width.toLong() * size.height).toDouble()
        val wasted = area(grid, tiling.tileSize) - effective
        val gain = effective - bestEffective
        if (gain > tiling.alpha * bestEffective || (-gain < tiling.alpha * bestEffective && wasted < bestWasted)) {
            best = grid
            bestEffective = effective
            bestWasted = wasted
        }
    }
    return best
}

/** LLaVA-NeXT's select_best_resolution, which does not clamp a side that rounds to 0; the first of equal grids. */
internal fun llavaNext(size: Size, tiling: Tiling): Grid {
    var best = Grid(1, 1)
    var bestEffective = -1.0
    var bestWasted = Double.POSITIVE_INFINITY
    val width = size.width.toDouble()
    val height = size.height.toDouble()
    for (grid in tiling.candidates) {
        val scale = min(tiling.tileSize.toLong() * grid.across / width, tiling.tileSize.toLong() * grid.down / height)
        val fitted = (width * scale).toLong() * (height * scale).toLong()
        val effective = min(fitted, size.width.toLong() * size.height).toDouble()
        val wasted = area(grid, tiling.tileSize) - effective
        if (effective > bestEffective || (effective == bestEffective && wasted < bestWasted)) {
            best = grid
            bestEffective = effective
            bestWasted = wasted
        }
    }
    return best
}

/** InternVL 1.5's: smaller grids first. */
internal fun internvl(size: Size, tiling: Tiling): Grid {
    val grids = tiling.candidates.distinct().sortedWith(compareBy({ it.tiles }, { it.across }, { it.down }))
    return closest(size, tiling.tileSize, grids)
}

/** find_closest_aspect_ratio, of squares of [side] pixels: of grids that are as near, a later one where the picture is large. */
internal fun closest(size: Size, side: Int, grids: List<Grid>): Grid {
    var best = Grid(1, 1)
    var bestDifference = Double.POSITIVE_INFINITY
    val pixels = side.toDouble()
    for (grid in grids) {
        val difference = abs(size.width.toDouble() / size.height - grid.across.toDouble() / grid.down)
        val largeEnough = (size.width.toLong() * size.height).toDouble() > 0.5 * pixels * pixels * grid.across * grid.down
        if (difference < bestDifference || (difference == bestDifference && largeEnough)) {
            best = grid
            bestDifference = difference
        }
    }
    return best
}

/** transformers' get_resize_output_image_size: the shorter side is a tile's, of the longer one its middle is taken. */
internal fun croppedFrom(size: Size, tile: Int): Size {
    val shorter = min(size.width, size.height)
    val longer = ((tile.toLong() * max(size.width, size.height)).toDouble() / shorter).toInt()
    return if (size.width <= size.height) Size(tile, longer) else Size(longer, tile)
}

/** At which an image fills a grid of tiles of [tile] pixels with its aspect ratio kept. */
internal fun fittedSize(size: Size, grid: Grid, tile: Int, roundUp: Boolean): Size {
    val canvasWidth = tile.toLong() * grid.across
    val canvasHeight = tile.toLong() * grid.down
    val across = canvasWidth.toDouble() / size.width
    val down = canvasHeight.toDouble() / size.height
    if (!roundUp) {
        val scale = min(across, down)
        return Size(max(1, (size.width * scale).toInt()), max(1, (size.height * scale).toInt()))
    }
    if (across < down) return Size(canvasWidth.toInt(), min(ceil(size.height * across).toLong(), canvasHeight).toInt())
    return Size(min(ceil(size.width * down).toLong(), canvasWidth).toInt(), canvasHeight.toInt())
}

/** Pixels of a grid's canvas. */
private fun area(grid: Grid, tile: Int): Double = (tile.toLong() * grid.across * tile * grid.down).toDouble()
