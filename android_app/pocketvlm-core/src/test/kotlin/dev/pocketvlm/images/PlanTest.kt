package dev.pocketvlm.images

import dev.pocketvlm.Case
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Tiling
import dev.pocketvlm.folder
import dev.pocketvlm.golden
import dev.pocketvlm.holdTo
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Test

class PlanTest {
    @Test
    fun `every rule cuts as Python does`() {
        for (file in checkNotNull(folder("golden").resolve("plans").listFiles())) {
            for (form in (golden("plans/${file.name}") as List<*>).map { Case(it) }) {
                val tiling = tilingOf(form)
                assertNull(tilingProblem(tiling))
                val own = when {
                    tiling.isInParts -> arrayOf("part", "thumbnail_part")
                    tiling.strategy == "pad-square" -> arrayOf("square")
                    else -> emptyArray()
                }
                holdTo(
                    form.cases("plans"), "grid", "resizes", "place", "thumbnail_index", "thumbnail_of", *own,
                ) { case ->
                    val plan = planOf(sizeOf(case["size"]), tiling)
                    val resizes = plan.resizes.map { listOf(it.width, it.height) }
                    val sides = { grid: Grid -> listOf(grid.across, grid.down) }
                    val place = listOf(plan.left, plan.top)
                    val parts = if (plan.square > 0) listOf(plan.square) else listOf(plan.part, plan.thumbnailPart).map(sides)
                    listOf(sides(plan.grid), resizes, place, plan.thumbnail, plan.thumbnailOf) + parts
                }
            }
        }
    }

    @Test
    fun `1200 sizes get the grids of the golden table`() {
        val lines = folder("golden").resolve("tiling.csv").readLines()
        val columns = lines[0].split(",")
        assertEquals(1200, lines.size - 1)
        for (line in lines.drop(1)) {
            val row = columns.zip(line.split(",")).toMap()
            val size = Size(row.getValue("width").toInt(), row.getValue("height").toInt())
            for ((column, rule) in COLUMNS) {
                val tiling = tiling(row.getValue("tile").toInt(), rule.first, rule.second)
                val grid = planOf(size, tiling).grid
                assertEquals("$column of $line", row[column], "${grid.across}x${grid.down}")
            }
        }
    }

    @Test
    fun `a tiling that no rule can follow is refused`() {
        val whole = grids(4, 16).filter { it.across == 4 || it.down == 4 }
        assertNull(tilingProblem(tiling(32, "idefics3", whole, 128)))
        for (longest in listOf(127, 4098, 130)) assertNotNull(tilingProblem(tiling(32, "idefics3", whole, longest)))
        assertNotNull(tilingProblem(tiling(32, "idefics3", whole.drop(1), 128)))
    }

    private companion object {
        /** Every grid up to [side] x [side] with at most [most] tiles, in descending order. */
        fun grids(side: Int, most: Int): List<Grid> = (side downTo 1).flatMap { across ->
            (side downTo 1).map { Grid(across, it) }.filter { it.tiles <= most }
        }

        val COLUMNS = mapOf(
            "relaxed_3x3" to ("relaxed" to grids(3, 9)),
            "relaxed_max8" to ("relaxed" to grids(4, 8)),
            "llava_next_3x3" to ("llava-next" to grids(3, 9)),
            "internvl_max6" to ("internvl" to grids(6, 6)),
            "internvl_max12" to ("internvl" to grids(12, 12)),
        )

        fun tiling(tile: Int, strategy: String, grids: List<Grid>, longest: Int? = null) =
            Tiling(tile, strategy, grids, 0.1, "first", true, longest)
    }
}
